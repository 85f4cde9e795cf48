"""``medvlmoe simulate``, ``medvlmoe train`` and ``medvlmoe evaluate``."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from client import resident
from medvlmoe.analysis.comparison import markdown, print_table, rows_of, stamps_of
from medvlmoe.analysis.report import write_report
from medvlmoe.configuration import compose, to_yaml
from medvlmoe.errors import ConfigError
from medvlmoe.files import write_text
from medvlmoe.model.image_classifier import ImageClassifier
from medvlmoe.run_folder import RunFolder
from medvlmoe.trained_model import TrainedModel
from medvlmoe.training import Trainer
from medvlmoe.training.device import resolve_devices
from medvlmoe.training.precision import resolve_precision
from simulation.alone import run_alone, run_centralized, summarize
from simulation.baseline import with_baseline_inputs
from simulation.cards import write_simulation_cards
from simulation.federated import run_federated
from simulation.sites import open_sites
from strategies.run_config import RunConfig


def simulate(arguments: list[str]) -> int:
    """Train on one machine: ``mode`` and every mode of ``compare`` on the same sites, then one table."""
    config = _configure(arguments)
    if config is None:
        return 0
    modes = list(dict.fromkeys([config.mode, *config.compare]))
    _refuse_early(config, modes)
    name = config.output.name or f"{config.mode}-seed{config.seed}"
    epochs = config.federation.rounds * config.federation.local_epochs
    overrides = [*(a for a in arguments if not a.startswith("output.name=")), f"output.name={name}"]
    summaries = {config.mode: _run(config.mode, _named(config, name), overrides, epochs)}
    for mode in modes[1:]:
        summaries[mode] = _run(mode, _named(config, f"{name}/compare/{mode}"), overrides, epochs)
    folder = Path(config.output.root) / name
    return _report(config, folder, summaries)


def train(arguments: list[str]) -> int:
    """Train one model on the pooled sites for ``training.epochs`` epochs: the centralized baseline."""
    config = _configure([*arguments, "mode=centralized"])
    if config is None:
        return 0
    _refuse_early(config, ["centralized"])
    name = config.output.name or f"centralized-seed{config.seed}"
    summary = _run("centralized", _named(config, name), [], config.training.epochs)
    return _report(config, Path(config.output.root) / name, {"centralized": summary})


def evaluate(arguments: list[str]) -> int:
    """Evaluate a checkpoint on the test split of every site of ``data``."""
    config = _configure(arguments)
    if config is None:
        return 0
    if config.checkpoint is None:
        raise ConfigError("say which model: checkpoint=runs/…/checkpoints/final.safetensors")
    trained = TrainedModel.describe(Path(config.checkpoint))
    config = dataclasses.replace(config, model=trained.config)
    sites = open_sites(config, splits=("test",), label_space=trained.label_space)
    trainer = Trainer(
        trained.load(),
        config.training,
        trained.label_space,
        seed=config.seed,
        device=config.device,
        devices=config.devices,
        total_epochs=1,
    )
    found = {name: trainer.evaluate(dataset) for name, dataset in sites.split("test").items()}
    summary = summarize("evaluate", config.seed, 0, found, 0.0, sites, trained.stamps, trained.reads_text)
    print_table(rows_of({"evaluate": summary}), f"{trained.path}, test split of each site", summary["stamps"])
    return 0


def _configure(arguments: list[str]) -> RunConfig | None:
    if any(argument in ("-h", "--help") for argument in arguments):
        print("Keys and defaults (override any as key=value, choose groups as model=tiny, experiment=quickstart):\n")
        print(to_yaml(compose(RunConfig)))
        return None
    resident.forget()
    return compose(RunConfig, arguments)


def _refuse_early(config: RunConfig, modes: list[str]) -> None:
    """Find mistakes that would otherwise show only at the sites, or after hours in a later mode of ``compare``."""
    resolve_precision(config.training.precision, resolve_devices(config.device, config.devices)[0])
    wanted, there = config.federation.sites, len(config.data.sites)
    if wanted is not None and wanted > there:
        raise ConfigError(f"federation.sites={wanted}, but data.sites has {there}; leave it unset in a simulation")
    if "yardstick" in modes:
        vision = config.model.vision
        if vision.depth is not None:
            raise ConfigError("compare=[yardstick] reads flat images, and model.vision=vit3d volumes; leave it out")
        with torch.device("meta"):
            ImageClassifier(config.simulation.yardstick, 1, image_size=vision.image_size, channels=vision.channels)


def _named(config: RunConfig, name: str) -> RunConfig:
    return dataclasses.replace(config, output=dataclasses.replace(config.output, name=name))


def _run(mode: str, config: RunConfig, overrides: list[str], epochs: int) -> dict[str, Any]:
    if mode == "baseline":
        config = dataclasses.replace(config, model=with_baseline_inputs(config))
    sites = open_sites(config)
    if mode == "federated":
        summary = run_federated(config, overrides)
        write_simulation_cards(Path(config.output.root) / str(config.output.name), sites)
    elif mode == "centralized":
        summary = run_centralized(config, sites, epochs)
    else:
        summary = run_alone(mode, config, sites, epochs)
    return {**summary, "left_out": sites.left_out(), "data": sites.notes()}


def _report(config: RunConfig, folder: Path, summaries: dict[str, dict[str, Any]]) -> int:
    first, *others = summaries
    summary = dict(summaries[first])
    if others:
        summary["compare"] = {mode: summaries[mode] for mode in others}
    summary["stamps"] = stamps_of(summaries)
    RunFolder(folder, "").write_summary(summary)
    rows = rows_of(summaries)
    write_text(folder / "table.md", markdown(rows, summary["stamps"]))
    write_report(folder)
    print_table(rows, f"Test AUC, 95 % interval (patient bootstrap), seed {config.seed}", summary["stamps"])
    print(f"{folder}/summary.json, report.html, table.md")
    return 0
