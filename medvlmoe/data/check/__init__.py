"""``medvlmoe data check``: what a site's folder holds beside what was published, and every malformed row."""
