"""Training without a federation: one model on the pooled sites, or one model a site."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from medvlmoe.configuration import to_mapping
from medvlmoe.data import SiteDataset, concatenate
from medvlmoe.files import save_tensors
from medvlmoe.model import build_image_classifier, build_model
from medvlmoe.run_folder import RunFolder, peak_memory_bytes
from medvlmoe.training import Trainer
from medvlmoe.training.evaluation import Evaluation
from simulation.sites import SimulatedSites
from strategies.run_config import RunConfig

logger = logging.getLogger(__name__)


def run_centralized(config: RunConfig, sites: SimulatedSites, epochs: int) -> dict[str, Any]:
    """Train one MedVLMoE on all sites' training data pooled; the best epoch by mean validation AUC over the sites."""
    model = _new_model("centralized", config, sites)
    folder = _open_folder(config, "centralized")
    pooled = concatenate(list(sites.split("train").values()))
    trainer = _fit(config, model, sites, pooled, sites.split("validation"), epochs, folder.checkpoints)
    save_tensors(folder.checkpoints / "final.safetensors", model.state_dict(), _metadata(config, sites))
    found = {name: trainer.evaluate(dataset) for name, dataset in sites.split("test").items()}
    return _finish(config, "centralized", epochs, found, folder)


def run_alone(mode: str, config: RunConfig, sites: SimulatedSites, epochs: int) -> dict[str, Any]:
    """Train a model on each site's own data and test it there.

    Args:
        mode: ``local`` (the same MedVLMoE) or ``yardstick`` (a plain timm backbone on the images alone).
        config: the run's configuration.
        sites: the sites.
        epochs: passes over each site's training data.
    """
    _new_model(mode, config, sites)  # a mistake in it shows before there is a folder
    folder = _open_folder(config, mode)
    found: dict[str, Evaluation] = {}
    for name, splits in sites.data.items():
        logger.info("%s: training on %s alone", mode, name)
        model = _new_model(mode, config, sites)
        checkpoints = folder.checkpoints / name
        validation = {name: splits["validation"]}
        trainer = _fit(config, model, sites, splits["train"], validation, epochs, checkpoints)
        if mode == "local":
            save_tensors(checkpoints / "final.safetensors", model.state_dict(), _metadata(config, sites))
        found[name] = trainer.evaluate(splits["test"])
    return _finish(config, mode, epochs, found, folder)


def summarize(
    mode: str, seed: int, rounds: int, found: Mapping[str, Evaluation], seconds: float, split: str = "test"
) -> dict[str, Any]:
    """``summary.json`` from evaluations by site."""
    sites = {name: {"split": split, **evaluation.to_dict()} for name, evaluation in found.items()}
    defined = [evaluation.auc for evaluation in found.values() if evaluation.auc is not None]
    return {
        "mode": mode,
        "seed": seed,
        "rounds": rounds,
        "sites": sites,
        "mean_auc": sum(defined) / len(defined) if defined else None,
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _open_folder(config: RunConfig, mode: str) -> RunFolder:
    return RunFolder.open(config.output, mode, {**to_mapping(config), "mode": mode}, resume=config.resume)


def _new_model(mode: str, config: RunConfig, sites: SimulatedSites) -> nn.Module:
    label_count = len(sites.label_space)
    if mode == "yardstick":
        vision = config.model.vision
        return build_image_classifier(
            config.simulation.yardstick,
            label_count,
            config.seed,
            image_size=vision.image_size,
            channels=vision.channels,
        )
    return build_model(config.model, label_count, config.seed)


def _fit(
    config: RunConfig,
    model: nn.Module,
    sites: SimulatedSites,
    train: SiteDataset,
    validation: dict[str, SiteDataset],
    epochs: int,
    checkpoints: Path,
) -> Trainer:
    trainer = Trainer(
        model,
        dataclasses.replace(config.training, epochs=epochs),
        sites.label_space,
        seed=config.seed,
        device=config.device,
        devices=config.devices,
        total_epochs=epochs,
    )
    trainer.fit(train, validation, checkpoint_folder=checkpoints, resume=config.resume)
    return trainer


def _finish(
    config: RunConfig, mode: str, epochs: int, found: dict[str, Evaluation], folder: RunFolder
) -> dict[str, Any]:
    summary = summarize(mode, config.seed, epochs, found, folder.seconds())
    folder.write_summary(summary)
    return summary


def _metadata(config: RunConfig, sites: SimulatedSites) -> dict[str, str]:
    return {
        "model": json.dumps(to_mapping(config.model)),
        "label_space": json.dumps(sites.label_space.to_dict()),
    }
