"""``medvlmoe tensorboard``: a run's rounds as TensorBoard curves (extra ``tracking``)."""

from pathlib import Path
from typing import Any

from medvlmoe import stamps
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import read_json_lines


def tensorboard(arguments: list[str]) -> int:
    """``medvlmoe tensorboard run=FOLDER``: write event files into the run's folder ``tensorboard/``."""
    if len(arguments) != 1 or not arguments[0].startswith("run="):
        raise ConfigError("say which run: medvlmoe tensorboard run=runs/quickstart")
    print(write_events(Path(arguments[0].removeprefix("run="))))
    return 0


def write_events(folder: Path) -> Path:
    """Turn ``rounds.jsonl`` into event files; what an earlier call wrote is replaced.

    Returns:
        The folder to show with ``tensorboard --logdir``.

    Raises:
        CheckpointError: there are no rounds.
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("TensorBoard is not installed: pip install 'medvlmoe[tracking]'") from error
    rounds = list(read_json_lines(folder / "rounds.jsonl"))
    if not rounds:
        raise CheckpointError(f"{folder} has no rounds.jsonl with a finished round")
    target = folder / "tensorboard"
    for old in target.glob("events.out.tfevents.*"):
        old.unlink()
    stamped = stamps.in_order(s for line in rounds for site in line["sites"].values() for s in stamps.of_numbers(site))
    with SummaryWriter(str(target)) as writer:
        for line in stamps.lines(stamped):
            writer.add_text("stamps", line)
        for line in rounds:
            for name, value in scalars(line).items():
                writer.add_scalar(name, value, line["round"])
    return target


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """The curves' values of one line of ``rounds.jsonl``, by name."""
    found = {"seconds": float(line["seconds"])}
    if line.get("validation_auc_before") is not None:
        found["validation_auc_before"] = line["validation_auc_before"]
    for site, entry in line["sites"].items():
        for key in ("train_loss", "validation_auc", "validation_loss"):
            if isinstance(entry.get(key), int | float):
                found[f"{key}/{site}"] = float(entry[key])
    for expert, samples in enumerate(line.get("expert_samples", [])):
        found[f"expert_samples/{expert}"] = float(samples)
    return found
