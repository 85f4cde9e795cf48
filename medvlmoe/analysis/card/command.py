"""The command ``medvlmoe card``."""

from dataclasses import dataclass
from pathlib import Path

from medvlmoe.analysis.card.write import MIN_PATIENTS, write_cards
from medvlmoe.configuration import compose, to_yaml
from medvlmoe.errors import CheckpointError, ConfigError

_USAGE = """medvlmoe card run=FOLDER [min_patients=10]
Write model_card.md and model_card.json beside every trained model of a run (also written at the end of each run).
    medvlmoe card run=runs/quickstart
Keys and defaults:"""


@dataclass(kw_only=True)
class CardConfig:
    """What ``medvlmoe card`` writes.

    Attributes:
        run: the run folder.
        min_patients: smallest group of patients that results are shown of.
    """

    run: str | None = None
    min_patients: int = MIN_PATIENTS

    def __post_init__(self) -> None:
        if self.min_patients < 2:
            raise ConfigError(f"min_patients={self.min_patients}: use 2 or more; a group of one is a patient")


def card(arguments: list[str]) -> int:
    """Run ``medvlmoe card``.

    Raises:
        ConfigError: an unknown key, or no run.
        CheckpointError: the run is not finished, kept no model, or is damaged.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"{_USAGE}\n\n{to_yaml(CardConfig())}", end="")
        return 0
    config = compose(CardConfig, arguments, config_name="card")
    if config.run is None:
        raise ConfigError("say which run: medvlmoe card run=runs/quickstart")
    folder = Path(config.run).expanduser()
    written = write_cards(folder, min_patients=config.min_patients)
    if not written:
        raise CheckpointError(f"{folder} holds no trained model (checkpoints/…/final.safetensors)")
    print("\n".join(map(str, written)))
    return 0
