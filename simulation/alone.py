"""Training without a federation: one model on the pooled sites, or one model a site."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from medvlmoe import stamps
from medvlmoe.baselines.build import build_baseline
from medvlmoe.configuration import to_mapping
from medvlmoe.data import SiteDataset, concatenate
from medvlmoe.files import save_tensors
from medvlmoe.model import build_image_classifier, build_model, with_image_normalisation
from medvlmoe.privacy.accountant import Accountant
from medvlmoe.privacy.randomness import SecretRandomness
from medvlmoe.privacy.record_cost import PREFIX, RecordCost
from medvlmoe.privacy.units import PrivacyUnits
from medvlmoe.run_folder import RunFolder, peak_memory_bytes
from medvlmoe.seeds import derive_seed
from medvlmoe.training import Trainer
from medvlmoe.training.evaluation import Evaluation
from medvlmoe.training.predictions import save_predictions
from medvlmoe.training.private_steps import PrivateSteps, SamplingPlan, planned_noise, step_mechanism
from simulation.baseline import describe_baseline, prepare_baseline
from simulation.cards import write_simulation_cards
from simulation.sites import SimulatedSites
from strategies.run_config import RunConfig

logger = logging.getLogger(__name__)


def run_centralized(config: RunConfig, sites: SimulatedSites, epochs: int) -> dict[str, Any]:
    """Train one MedVLMoE on all sites' training data pooled; the best epoch by mean validation AUC over the sites."""
    model = new_model("centralized", config, sites)
    folder = _open_folder(config, "centralized")
    pooled = concatenate(list(sites.split("train").values()))
    trainer = _fit(config, model, sites, pooled, sites.split("validation"), epochs, folder.checkpoints)
    _save_model(folder.checkpoints, model, "centralized", config, sites, list(sites.sites))
    found = {name: _test(trainer, name, dataset, folder) for name, dataset in sites.split("test").items()}
    return _finish(config, "centralized", epochs, found, folder, sites)


def run_alone(mode: str, config: RunConfig, sites: SimulatedSites, epochs: int) -> dict[str, Any]:
    """Train a model on each site's own data and test it there.

    Args:
        mode: ``local`` (the same MedVLMoE), ``yardstick`` (a plain timm backbone on the images alone) or ``baseline``
            (one of the paper's five comparison models).
        config: the run's configuration.
        sites: the sites.
        epochs: passes over each site's training data.
    """
    new_model(mode, config, sites)  # a mistake in it shows before there is a folder
    folder = _open_folder(config, mode)
    found: dict[str, Evaluation] = {}
    for name, splits in sites.data.items():
        logger.info("%s: training on %s alone", mode, name)
        model = new_model(mode, config, sites)
        checkpoints = folder.checkpoints / name
        if mode == "baseline":
            prepare_baseline(model, config, sites, name, checkpoints)
        validation = {name: splits["validation"]}
        trainer = _fit(config, model, sites, splits["train"], validation, epochs, checkpoints)
        if mode != "yardstick":
            _save_model(checkpoints, model, mode, config, sites, [name])
        found[name] = _test(trainer, name, splits["test"], folder)
    return _finish(config, mode, epochs, found, folder, sites)


def summarize(
    mode: str,
    seed: int,
    rounds: int,
    found: Mapping[str, Evaluation],
    seconds: float,
    sites: SimulatedSites,
    model_stamps: Sequence[str] = (),
    reads_text: bool = True,
) -> dict[str, Any]:
    """``summary.json`` from evaluations on the sites' test splits.

    Args:
        mode: how the model was trained.
        seed: of the run.
        rounds: rounds or epochs of training.
        found: metrics by site.
        seconds: time of the run.
        sites: the sites.
        model_stamps: stamps of what the model was trained on.
        reads_text: whether a prediction depends on the text; a model without it is never LEAKY.
    """
    own_stamps = sites.stamps()
    entries = {
        name: {
            "split": "test",
            **evaluation.to_dict(),
            **sites.text_facts(name),
            "stamps": stamps.in_order([*model_stamps, *own_stamps[name]]),
        }
        for name, evaluation in found.items()
    }
    if not reads_text:
        for entry in entries.values():
            entry["stamps"] = [stamp for stamp in entry["stamps"] if stamp != stamps.LEAKY]
    defined = [evaluation.auc for evaluation in found.values() if evaluation.auc is not None]
    return {
        "mode": mode,
        "seed": seed,
        "rounds": rounds,
        "sites": entries,
        "mean_auc": sum(defined) / len(defined) if defined else None,
        "stamps": stamps.in_order(stamp for entry in entries.values() for stamp in entry["stamps"]),
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _open_folder(config: RunConfig, mode: str) -> RunFolder:
    return RunFolder.open(config.output, mode, {**to_mapping(config), "mode": mode}, resume=config.resume)


def new_model(mode: str, config: RunConfig, sites: SimulatedSites) -> nn.Module:
    """The model that a run of this mode starts from."""
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
    if mode == "baseline":
        return build_baseline(config.baseline, config.model, label_count, config.seed)
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
    private_steps = _private_steps(config, PrivacyUnits.of(config.privacy.unit, train), epochs)
    trainer = Trainer(
        model,
        dataclasses.replace(config.training, epochs=epochs),
        sites.label_space,
        seed=config.seed,
        device=config.device,
        devices=config.devices,
        total_epochs=epochs,
        private_steps=private_steps,
    )
    judges = validation if private_steps is None else None  # to choose the best epoch by them would be a release
    trainer.fit(train, judges, checkpoint_folder=checkpoints, resume=config.resume)
    return trainer


def _test(trainer: Trainer, name: str, dataset: SiteDataset, folder: RunFolder) -> Evaluation:
    """Metrics on a site's test split; the scores behind them stay in ``predictions/<site>.safetensors``."""
    predictions = trainer.score(dataset)
    save_predictions(folder.path / "predictions" / f"{name}.safetensors", predictions)
    return trainer.judge(predictions)


def _private_steps(config: RunConfig, units: PrivacyUnits, epochs: int) -> PrivateSteps | None:
    privacy = config.privacy
    if not privacy.covers_records:
        return None
    noise = planned_noise(privacy, SamplingPlan.of(len(units), config.training.batch_size), epochs, rounds=0)
    seed = derive_seed(config.seed, "privacy") if privacy.repeatable_noise else None
    return PrivateSteps(privacy, noise, SecretRandomness(seed))


def _privacy_cost(config: RunConfig, train: SiteDataset, epochs: int) -> dict[str, Any]:
    """What a finished run with record-level privacy has cost the records of a training set."""
    privacy = config.privacy
    units = PrivacyUnits.of(privacy.unit, train)
    plan = SamplingPlan.of(len(units), config.training.batch_size)
    noise = planned_noise(privacy, plan, epochs, rounds=0)
    epsilon = Accountant(privacy.accountant, [step_mechanism(noise, plan, epochs)]).epsilon(privacy.delta)
    cost = RecordCost(
        epsilon=epsilon, delta=privacy.delta, noise_multiplier=noise, sampling_rate=plan.rate,
        steps=epochs * plan.steps, max_grad_norm=privacy.max_grad_norm,
    )  # fmt: skip
    numbers = {name.removeprefix(PREFIX): v for name, v in cost.to_numbers().items() if name != f"{PREFIX}by_patient"}
    return numbers | {"unit": units.kind}


def _finish(
    config: RunConfig,
    mode: str,
    epochs: int,
    found: dict[str, Evaluation],
    folder: RunFolder,
    sites: SimulatedSites,
) -> dict[str, Any]:
    model_stamps = _stamps_of(sites, list(sites.sites)) if mode == "centralized" else []
    summary = summarize(
        mode, config.seed, epochs, found, folder.seconds(), sites, model_stamps, _reads_text(mode, config)
    )
    if mode == "baseline":
        summary["baseline"] = describe_baseline(config, sites)
    if config.privacy.covers_records:
        train = sites.split("train")
        if mode == "centralized":  # one model, so each site's records have the cost of the whole
            train = dict.fromkeys(train, concatenate(list(train.values())))
        summary["privacy"] = {
            "mode": "record",
            "unit": config.privacy.unit,
            "repeatable_noise": config.privacy.repeatable_noise,
            "records": {name: _privacy_cost(config, records, epochs) for name, records in train.items()},
        }
    folder.write_summary(summary)
    if mode != "yardstick":
        write_simulation_cards(folder.path, sites)
    return summary


def _stamps_of(sites: SimulatedSites, names: Sequence[str]) -> list[str]:
    own_stamps = sites.stamps()
    return stamps.in_order(stamp for name in names for stamp in own_stamps[name])


def _reads_text(mode: str, config: RunConfig) -> bool:
    return {"yardstick": False, "baseline": config.baseline.reads_text}.get(mode, config.model.reads_text)


def _save_model(
    checkpoints: Path, model: nn.Module, mode: str, config: RunConfig, sites: SimulatedSites, trained_on: Sequence[str]
) -> None:
    """``final.safetensors`` with its own description, as :class:`medvlmoe.trained_model.TrainedModel` reads it."""
    architecture = dataclasses.replace(config.model, vision=with_image_normalisation(config.model.vision))
    own_stamps = _stamps_of(sites, trained_on)
    if not _reads_text(mode, config):
        own_stamps = [stamp for stamp in own_stamps if stamp != stamps.LEAKY]
    metadata = {
        "model": json.dumps(to_mapping(architecture)),
        "label_space": json.dumps(sites.label_space.to_dict()),
        "stamps": json.dumps(own_stamps),
        "parameters": str(sum(parameter.numel() for parameter in model.parameters())),
    }
    if mode == "baseline":
        metadata["baseline"] = json.dumps(to_mapping(config.baseline))
    save_tensors(checkpoints / "final.safetensors", model.state_dict(), metadata)
