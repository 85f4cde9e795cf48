"""Write one table or figure from the results."""

from pathlib import Path

from medvlmoe.analysis.reproduction.render import write_document
from medvlmoe.analysis.reproduction.results import Results
from medvlmoe.analysis.reproduction.tables import table1, table2
from simulation.reproduction.config import ReproductionConfig
from simulation.reproduction.plan import TABLE1, TABLE2, Plan, pairs_of

_TABLES = {TABLE1: table1, TABLE2: table2}


def write_artefact(name: str, config: ReproductionConfig, plan: Plan, results: Results) -> list[Path]:
    """Write a table or figure into the results' folder.

    Returns:
        The files.
    """
    if name in _TABLES:
        return write_document(_TABLES[name](results, pairs_of(config, name)), results.root)
    return []
