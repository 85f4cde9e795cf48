"""Adds to results what needs the cells' predictions: intervals over patients and paired tests."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from medvlmoe.analysis.reproduction.paired import PairedTest, holm, mean_interval, paired_test
from medvlmoe.analysis.reproduction.results import CellResult, Comparison, Results
from medvlmoe.errors import CheckpointError
from medvlmoe.model.ablations import FULL

RESAMPLES = 1000


def with_intervals(results: Results, pairs: Iterable[tuple[str, str]]) -> Results:
    """The results with the interval over patients of every model on its data set.

    Args:
        results: cells whose predictions are on disk.
        pairs: (data set, model) of all tables and figures.
    """
    intervals: dict[str, dict[str, list[float]]] = {}
    for dataset, model in dict.fromkeys(pairs):
        runs = [results.predictions(cell) for cell in results.finished(dataset, model)]
        if runs:
            try:
                intervals.setdefault(dataset, {})[model] = list(mean_interval(runs, resamples=RESAMPLES))
            except CheckpointError:  # no label has both classes: the AUC is undefined, and so is its interval
                continue
    return dataclasses.replace(results, intervals=intervals)


def with_comparisons(results: Results, tables: Mapping[str, Sequence[tuple[str, str]]]) -> Results:
    """The results with paired tests of the whole model against every other.

    Args:
        results: cells whose predictions are on disk.
        tables: (data set, model) of each table; the tests of a table are one family for Holm's correction.
    """
    comparisons = [one for table, pairs in tables.items() for one in _family(results, table, pairs)]
    return dataclasses.replace(results, comparisons=comparisons)


def _family(results: Results, table: str, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    tests: dict[tuple[str, str], PairedTest] = {}
    for dataset, model in pairs:
        if model != FULL:
            test = _test(results, dataset, model)
            if test is not None:
                tests[dataset, model] = test
    adjusted = holm([test.p_value for test in tests.values()])
    return [
        Comparison(
            table=table,
            dataset=dataset,
            first=FULL,
            second=model,
            test={key: value for key, value in dataclasses.asdict(test).items() if math.isfinite(value)},
            p_adjusted=p_value,
            family=len(tests),
        )
        for ((dataset, model), test), p_value in zip(tests.items(), adjusted, strict=True)
    ]


def _test(results: Results, dataset: str, model: str) -> PairedTest | None:
    ours, theirs = _by_seed(results, dataset, FULL), _by_seed(results, dataset, model)
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds or all(ours[seed].identity == theirs[seed].identity for seed in seeds):
        return None  # nothing to compare, or the very same runs
    try:
        return paired_test(
            [results.predictions(ours[seed]) for seed in seeds],
            [results.predictions(theirs[seed]) for seed in seeds],
            resamples=RESAMPLES,
        )
    except CheckpointError:
        return None


def _by_seed(results: Results, dataset: str, model: str) -> dict[int, CellResult]:
    return {cell.seed: cell for cell in results.finished(dataset, model)}
