"""Hydra configuration, packaged so that an installed wheel finds it."""
