"""From the entries of Table 1 to the cells of Figure 2: the same numbers."""

from collections.abc import Sequence

from medvlmoe.analysis.figures.figure2 import OVER_PATIENTS, OVER_SEEDS, Figure2Cell
from medvlmoe.analysis.reproduction.entries import Entry
from medvlmoe.analysis.reproduction.paper_values import BENCHMARKS, SHARED, TITLES


def figure2_cells(entries: Sequence[Entry]) -> list[Figure2Cell]:
    """One cell an entry; the interval is over seeds, and over patients where there is one seed only.

    A baseline goes by its short name, so that the entries must have it with one kind of encoders only.
    """
    return [_cell(entry, _names(entries)[entry.dataset]) for entry in entries]


def _names(entries: Sequence[Entry]) -> dict[str, str]:
    """Name of each data set in the figure: the benchmark's, unless several sites are parts of it."""
    kinds = {entry.dataset: entry.kind for entry in entries}
    alone = {kind for kind in kinds.values() if list(kinds.values()).count(kind) == 1}
    return {name: BENCHMARKS.get(kind, name) if kind in alone else name for name, kind in kinds.items()}


def _cell(entry: Entry, name: str) -> Figure2Cell:
    low = high = None
    over = OVER_SEEDS
    if entry.auc is not None and entry.half_width is not None:
        low, high = entry.auc - entry.half_width, entry.auc + entry.half_width
    elif entry.patients is not None:
        (low, high), over = entry.patients, OVER_PATIENTS
    return Figure2Cell(
        dataset=name,
        model=TITLES.get(entry.model.removesuffix(SHARED), entry.title),
        auc=_share(entry.auc),
        low=_share(low),
        high=_share(high),
        interval=over,
        seeds=len(entry.seeds),
        images=entry.images,
        paper=_share(None if entry.paper is None else entry.paper.auc),
        paper_half_width=_share(None if entry.paper is None else entry.paper.plus_minus),
        stamps=tuple(entry.stamps),
    )


def _share(per_cent: float | None) -> float | None:
    return None if per_cent is None else per_cent / 100
