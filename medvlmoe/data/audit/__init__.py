"""The leak audit: how well a site's text alone tells its labels."""
