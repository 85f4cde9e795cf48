"""Write one table or figure from the results."""

from pathlib import Path

from medvlmoe.analysis.reproduction.results import Results
from simulation.reproduction.config import ReproductionConfig
from simulation.reproduction.plan import Plan


def write_artefact(name: str, config: ReproductionConfig, plan: Plan, results: Results) -> list[Path]:
    """Write a table or figure into the results' folder.

    Returns:
        The files.
    """
    return []
