"""Figures as pure functions from numbers to matplotlib figures; matplotlib is imported only to draw."""
