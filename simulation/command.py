"""``medvlmoe simulate``, ``medvlmoe train`` and ``medvlmoe evaluate``."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from medvlmoe.analysis.comparison import markdown, print_table, rows_of
from medvlmoe.analysis.report import write_report
from medvlmoe.configuration import compose, from_mapping, to_mapping, to_yaml
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import load_tensors, write_text
from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.model.medvlmoe import MedVLMoE
from medvlmoe.run_folder import RunFolder
from medvlmoe.training import Trainer
from simulation.alone import run_alone, run_centralized, summarize
from simulation.federated import run_federated
from simulation.sites import open_sites
from strategies.run_config import RunConfig


def simulate(arguments: list[str]) -> int:
    """Train on one machine: ``mode`` and every mode of ``compare`` on the same sites, then one table."""
    config = _configure(arguments)
    if config is None:
        return 0
    modes = list(dict.fromkeys([config.mode, *config.compare]))
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
    path = Path(config.checkpoint)
    state, metadata = load_tensors(path)
    if "model" not in metadata or "label_space" not in metadata:
        raise CheckpointError(f"{path} is not a checkpoint of this framework (no model description in it)")
    model_config = from_mapping(MedVLMoEConfig, json.loads(metadata["model"]))
    label_space = LabelSpace.from_dict(json.loads(metadata["label_space"]))
    config = dataclasses.replace(config, model=model_config)
    sites = open_sites(config, splits=("test",), label_space=label_space)
    model = MedVLMoE(model_config, len(label_space.labels))
    model.load_state_dict(state)
    trainer = Trainer(model, config.training, label_space, seed=config.seed, device=config.device, total_epochs=1)
    found = {name: trainer.evaluate(dataset) for name, dataset in sites.split("test").items()}
    summary = summarize("evaluate", config.seed, 0, found, 0.0)
    print_table(rows_of({"evaluate": summary}), f"{path}, test split of each site")
    return 0


def _configure(arguments: list[str]) -> RunConfig | None:
    if any(argument in ("-h", "--help") for argument in arguments):
        print("Keys and defaults (override any as key=value, choose groups as model=tiny, experiment=quickstart):\n")
        print(to_yaml(compose(RunConfig)))
        return None
    return compose(RunConfig, arguments)


def _named(config: RunConfig, name: str) -> RunConfig:
    return dataclasses.replace(config, output=dataclasses.replace(config.output, name=name))


def _run(mode: str, config: RunConfig, overrides: list[str], epochs: int) -> dict[str, Any]:
    sites = open_sites(config)
    if mode == "federated":
        return run_federated(config, overrides)
    described = {**to_mapping(config), "mode": mode}
    folder = RunFolder.open(config.output, mode, described, resume=config.resume)
    if mode == "centralized":
        return run_centralized(config, sites, folder, epochs)
    return run_alone(mode, config, sites, folder, epochs)


def _report(config: RunConfig, folder: Path, summaries: dict[str, dict[str, Any]]) -> int:
    first, *others = summaries
    summary = dict(summaries[first])
    if others:
        summary["compare"] = {mode: summaries[mode] for mode in others}
        RunFolder(folder, "").write_summary(summary)
    rows = rows_of(summaries)
    write_text(folder / "table.md", markdown(rows))
    write_report(folder)
    print_table(rows, f"Test AUC, 95 % interval (patient bootstrap), seed {config.seed}")
    print(f"{folder}/summary.json, report.html, table.md")
    return 0
