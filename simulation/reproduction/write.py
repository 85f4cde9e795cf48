"""Write one table or figure from the results."""

from pathlib import Path

from medvlmoe.analysis.figures.figure2 import draw_figure2, figure2_numbers
from medvlmoe.analysis.figures.figure3 import draw_figure3, figure3_numbers, over_seeds, seeds_note
from medvlmoe.analysis.figures.style import save_figure
from medvlmoe.analysis.reproduction.entries import entries_of
from medvlmoe.analysis.reproduction.figure2_cells import figure2_cells
from medvlmoe.analysis.reproduction.footnotes import FIGURE2_NOTE
from medvlmoe.analysis.reproduction.paper_values import SHARED
from medvlmoe.analysis.reproduction.render import write_document
from medvlmoe.analysis.reproduction.results import Results
from medvlmoe.analysis.reproduction.tables import table1, table2
from medvlmoe.model.ablations import FULL
from simulation.reproduction.config import ReproductionConfig
from simulation.reproduction.plan import FIGURE2, FIGURE3, TABLE1, TABLE2, Plan, pairs_of
from simulation.reproduction.routing import routing_panels

_TABLES = {TABLE1: table1, TABLE2: table2}


def write_artefact(name: str, config: ReproductionConfig, plan: Plan, results: Results) -> list[Path]:
    """Write a table or figure into the results' folder.

    Returns:
        The files.

    Raises:
        ConfigError, CheckpointError: no run that it needs is finished.
    """
    if name in _TABLES:
        return write_document(_TABLES[name](results, pairs_of(config, name)), results.root)
    if name == FIGURE2:
        # Six models as in the paper: with both kinds of encoders the baselines are shown with ours, the fair ones.
        shared = config.backbone != "published"
        pairs = [pair for pair in pairs_of(config, name) if pair[1] == FULL or pair[1].endswith(SHARED) == shared]
        encoders = "MedVLMoE's own" if shared else "their published"
        note = f"Baselines with {encoders} encoders. {FIGURE2_NOTE}"
        cells = figure2_cells(entries_of(results, TABLE1, pairs or pairs_of(config, name)))
        return save_figure(draw_figure2(cells, note), results.root / name, figure2_numbers(cells, note))
    assert name == FIGURE3
    panels = routing_panels(plan)
    shown = min(panels)
    note = seeds_note(panels, shown)
    numbers = {"seed": shown, **figure3_numbers(panels[shown], note), "over_seeds": over_seeds(panels)}
    return save_figure(draw_figure3(panels[shown], note), results.root / name, numbers)
