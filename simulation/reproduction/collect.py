"""From finished run folders to ``results.json``."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvlmoe import stamps
from medvlmoe.analysis.reproduction.results import FAILED, FINISHED, CellResult, Results
from simulation.reproduction.cell import Cell, precision_of
from simulation.reproduction.config import ReproductionConfig
from simulation.reproduction.plan import Plan


def collect_results(
    config: ReproductionConfig, plan: Plan, failed: Mapping[str, str], command: str, root: Path
) -> Results:
    """What every cell of the plan came to.

    Args:
        config: the grid's configuration.
        plan: the cells.
        failed: reason by identity.
        command: the command line.
        root: folder that ``results.json`` will be in.
    """
    cells = [_result(config, key, cell, failed, root) for key, cell in plan.entries.items()]
    for dataset, model in plan.pairs:
        reason = plan.impossible.get(model) or _unreadable(config, plan, dataset)
        if reason is not None:
            kind = config.data.sites[dataset].kind if dataset in config.data.sites else ""
            cells += [
                CellResult(dataset=dataset, kind=kind, model=model, seed=seed, status=FAILED, reason=reason)
                for seed in config.seed_list()
            ]
    return Results(command=command, preset=config.protocol, protocol=_protocol(config), cells=cells, root=root)


def _result(
    config: ReproductionConfig, key: tuple[str, str, int], cell: Cell, failed: Mapping[str, str], root: Path
) -> CellResult:
    dataset, model, seed = key
    site = config.data.sites.get(dataset)
    facts: dict[str, Any] = {
        "dataset": dataset,
        "kind": "" if cell.is_joint or site is None else site.kind,
        "model": model,
        "seed": seed,
        "folder": os.path.relpath(cell.folder, root),
        "identity": cell.identity,
        "policies": {} if cell.is_joint or site is None else site.policies(),
    }
    summary = cell.summary()
    if summary is None:
        reason = failed.get(cell.identity, "it has not been run")
        return CellResult(**facts, status=FAILED, reason=reason)
    pairs = (summary.get("baseline") or {}).get("pretraining_text")
    if pairs:
        facts["policies"] = {**facts["policies"], "pretraining_text": pairs[dataset]}
    return CellResult(
        **facts,
        status=FINISHED,
        sites=summary["sites"],
        cost=summary["cost"],
        stamps=stamps.in_order(summary["stamps"]),
        seconds=summary["seconds"],
    )


def _unreadable(config: ReproductionConfig, plan: Plan, dataset: str) -> str | None:
    sites = [dataset] if dataset in config.data.sites else list(config.data.sites)
    return next((plan.unreadable[site] for site in sites if site in plan.unreadable), None)


def _protocol(config: ReproductionConfig) -> dict[str, Any]:
    """What the caption of a table says of the runs."""
    training = dataclasses.asdict(config.training)
    kept = ("epochs", "batch_size", "encoder_learning_rate", "head_learning_rate", "weight_decay", "warmup_epochs",
            "patience")  # fmt: skip
    return {
        "model": config.model.name,
        "image_size": config.model.vision.image_size,
        "backbone": config.model.vision.backbone,
        "vision_weights": config.model.vision.weights or "random",
        "text_weights": config.model.text.weights or "random",
        "augment": config.data.augment,
        "seeds": config.seed_list(),
        "baseline_backbone": config.backbone,
        "baseline_image_weights": config.baseline.image.weights or "random",
        "baseline_text_weights": config.baseline.text.weights or "random",
        "pretraining_epochs": config.baseline.pretraining.epochs,
        "text_at_test": config.text_at_test,
        **{key: training[key] for key in kept},
        "precision": precision_of(config.run_config()),
    }
