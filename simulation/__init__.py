"""Runs on one machine."""

from simulation.in_process_grid import InProcessGrid

__all__ = ["InProcessGrid"]
