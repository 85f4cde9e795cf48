"""``medvlmoe doctor site.yaml``: all that can go wrong at a hospital, looked at before the first real round."""
