"""Differential privacy: what is chosen, how it is trained, and what it costs."""
