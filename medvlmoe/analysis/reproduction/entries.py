"""The numbers of a table, one entry a data set and model, from ``results.json`` alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from medvlmoe import stamps
from medvlmoe.analysis.reproduction import paper_values
from medvlmoe.analysis.reproduction.anchors import Anchor, anchor_of
from medvlmoe.analysis.reproduction.paper_values import PaperValue
from medvlmoe.analysis.reproduction.results import FAILED, Comparison, Results
from medvlmoe.analysis.table import t_interval
from medvlmoe.model.ablations import ABLATIONS


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model on a data set. Areas in per cent.

    Attributes:
        dataset: name of the site.
        kind: layout of its files.
        model: name in the grid.
        title: name in tables.
        auc: mean over the seeds; ``None`` if no seed has a defined AUC.
        half_width: of the 95 % t-interval over seeds; ``None`` for one seed.
        seeds: the seeds behind it.
        identities: of the runs behind it; an ablation that changes nothing has those of the full model.
        failed: reason by seed.
        patients: 95 % bootstrap interval over patients, of the mean over seeds.
        images: test images.
        labels_averaged: labels in the mean, and labels of the data set.
        subsets: mean over the seeds of the AUC of a part of the labels.
        paper: the paper's value.
        anchor: published result.
        comparison: paired test, whole model minus this one.
        stamps: LEAKY, SUBSET, PHANTOM.
        policies: how labels and text were read.
        cost: parameters, active parameters, FLOPs.
        text_only: AUC of a classifier on the text alone.
    """

    dataset: str
    kind: str
    model: str
    title: str
    auc: float | None = None
    half_width: float | None = None
    seeds: list[int] = field(default_factory=list)
    identities: list[str] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    patients: tuple[float, float] | None = None
    images: int | None = None
    labels_averaged: tuple[int, int] | None = None
    subsets: dict[str, float] = field(default_factory=dict)
    paper: PaperValue | None = None
    anchor: Anchor | None = None
    comparison: Comparison | None = None
    stamps: list[str] = field(default_factory=list)
    policies: dict[str, str] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    text_only: float | None = None

    @property
    def minus_paper(self) -> float | None:
        """Ours minus the paper's, points."""
        return None if self.auc is None or self.paper is None else self.auc - self.paper.auc


def entries_of(results: Results, table: str, pairs: Sequence[tuple[str, str]]) -> list[Entry]:
    """Entries of a table in its order.

    Args:
        results: from ``results.json``.
        table: ``table1`` or ``table2``.
        pairs: (data set, model).
    """
    return [_entry(results, table, dataset, model) for dataset, model in pairs]


def title_of(model: str) -> str:
    """Name of a model in tables."""
    if model in ABLATIONS:
        return ABLATIONS[model].title
    base = model.removesuffix(paper_values.SHARED)
    return paper_values.TITLES.get(base, base) + (" (our encoders)" if base != model else "")


def _entry(results: Results, table: str, dataset: str, model: str) -> Entry:
    own = [cell for cell in results.cells if cell.dataset == dataset and cell.model == model]
    finished = results.finished(dataset, model)
    kind = next((cell.kind for cell in own), "")
    policies = next((cell.policies for cell in [*finished, *own]), {})
    size = int(policies["size"]) if "size" in policies else None
    entries = [cell.sites[dataset] for cell in finished]
    areas = {cell.seed: entry["auc"] for cell, entry in zip(finished, entries, strict=True)}
    known = {seed: 100 * area for seed, area in areas.items() if area is not None}
    mean, half_width = t_interval(list(known.values())) if known else (None, math.inf)
    interval = results.intervals.get(dataset, {}).get(model)
    subsets = sorted({name for entry in entries for name in entry.get("subset_auc", {})})
    return Entry(
        dataset=dataset,
        kind=kind,
        model=model,
        title=title_of(model),
        auc=mean,
        half_width=half_width if math.isfinite(half_width) else None,
        seeds=list(known),
        identities=[cell.identity for cell in finished],
        failed={cell.seed: cell.reason for cell in own if cell.status == FAILED},
        patients=None if interval is None else (100 * interval[0], 100 * interval[1]),
        images=next((entry["n"] for entry in entries), None),
        labels_averaged=next(((entry["labels_averaged"], len(entry["per_label"])) for entry in entries), None),
        subsets={name: value for name in subsets if (value := _subset_mean(entries, name)) is not None},
        paper=_paper_value(table, model, kind),
        anchor=anchor_of(kind, model.removesuffix(paper_values.SHARED), size) if table == "table1" else None,
        comparison=next(
            (c for c in results.comparisons if (c.table, c.dataset, c.second) == (table, dataset, model)), None
        ),
        stamps=stamps.in_order(stamp for cell in finished for stamp in cell.stamps),
        policies=policies,
        cost=_mean_cost([cell.cost for cell in finished]),
        text_only=next((100 * e["text_only_auc"] for e in entries if e.get("text_only_auc") is not None), None),
    )


def _paper_value(table: str, model: str, kind: str) -> PaperValue | None:
    if table == "table2":
        return paper_values.TABLE2.get(model) if kind == "chestxray14" else None
    return paper_values.TABLE1.get(model.removesuffix(paper_values.SHARED), {}).get(kind)


def _subset_mean(entries: Sequence[dict], name: str) -> float | None:
    values = [entry["subset_auc"][name]["auc"] for entry in entries if name in entry.get("subset_auc", {})]
    known = [value for value in values if value is not None]
    return 100 * math.fsum(known) / len(known) if known else None


def _mean_cost(costs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: math.fsum(cost[key] for cost in costs) / len(costs) for key in costs[0]} if costs else {}
