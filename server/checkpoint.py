"""The server's state on disk: after every round the global model and all that a restart needs.

``checkpoints/round-00003.safetensors`` is written first, ``checkpoints/state.json`` last and atomically: what it names
is complete, so a process killed at any moment loses at most the round it was in.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from medvlmoe.errors import CheckpointError
from medvlmoe.files import read_json, save_tensors, write_json


@dataclass(kw_only=True)
class ServerState:
    """Progress of a run.

    Attributes:
        round: last finished round, 0 before the first.
        auc_by_round: mean validation AUC over the sites of the model after a round (0: the initial model).
        expert_moved_in: round in which each expert last changed, 0 for never.
        expert_loads: share of the assignments that each expert had at the last merge; empty before the first, and where
            no loss asks for it.
        client_privacy: state of client-level differential privacy, ``None`` without.
        record_costs: what each hospital last reported of its records' privacy, as numbers.
        stamps: what the data of any merged site has stamped the model with, see :mod:`medvlmoe.stamps`.
    """

    round: int = 0
    auc_by_round: dict[int, float] = field(default_factory=dict)
    expert_moved_in: list[int] = field(default_factory=list)
    expert_loads: list[float] = field(default_factory=list)
    client_privacy: dict[str, Any] | None = None
    record_costs: dict[str, dict[str, float]] = field(default_factory=dict)
    stamps: list[str] = field(default_factory=list)

    def best_round(self) -> int | None:
        """The earliest round with the highest mean validation AUC. The untrained model (round 0) is none of them."""
        trained = [number for number in self.auc_by_round if number > 0]
        return max(trained, key=lambda number: (self.auc_by_round[number], -number)) if trained else None


class ServerCheckpoints:
    """Saves and loads the global model by round; keeps the last and the best."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: ServerState, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
        """Save the model after ``state.round`` and make it the one to resume from."""
        save_tensors(self.file_of(state.round), tensors, metadata)
        self.save_state(state)

    def save_state(self, state: ServerState) -> None:
        """Save progress without a new model, and delete models that are neither last nor best."""
        write_json(self.folder / "state.json", asdict(state))
        for file in self.folder.glob("round-*.safetensors"):
            if file not in (self.file_of(state.round), self.file_of(self._best_or_last(state))):
                file.unlink()

    def load_state(self) -> ServerState | None:
        """Progress of an earlier process, ``None`` if there is none.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = self.folder / "state.json"
        if not path.exists():
            return None
        raw = read_json(path)
        try:
            raw["auc_by_round"] = {int(number): auc for number, auc in raw["auc_by_round"].items()}
            return ServerState(**raw)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); replace the run with output.overwrite=true") from error

    def file_of(self, server_round: int) -> Path:
        """File of the model after a round."""
        return self.folder / f"round-{server_round:05d}.safetensors"

    def _best_or_last(self, state: ServerState) -> int:
        best = state.best_round()
        return state.round if best is None else best
