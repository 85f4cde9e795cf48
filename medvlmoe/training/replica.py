"""What another process needs to be the same trainer: a description that is sent, then numbers that are broadcast."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medvlmoe.data.labels import LabelSpace
from medvlmoe.parallel.skeleton import model_tensors, pickle_skeleton, unpickle_skeleton
from medvlmoe.training.config import TrainingConfig
from medvlmoe.training.optimizer import allocate_optimizer_state, optimizer_tensors
from medvlmoe.training.precision import Precision

if TYPE_CHECKING:
    from medvlmoe.training.trainer import Trainer


@dataclass(frozen=True)
class Replica:
    """Description of a trainer.

    Attributes:
        skeleton: its model without numbers.
        config: its configuration.
        label_space: labels of the model's outputs.
        seed: its seed.
        total_epochs: length of its schedule.
        precision: number format that it resolved.
        scaler: state of the loss scale.
        moments: parameters that have optimizer state; none if it is not needed.
    """

    skeleton: bytes
    config: TrainingConfig
    label_space: LabelSpace
    seed: int
    total_epochs: int
    precision: str
    scaler: dict[str, Tensor]
    moments: list[str]

    @staticmethod
    def of(trainer: "Trainer", *, with_optimizer: bool) -> "Replica":
        """Describe a trainer."""
        names = optimizer_tensors(trainer.model, trainer.optimizer) if with_optimizer else {}
        return Replica(
            pickle_skeleton(trainer.model),
            trainer.config,
            trainer.label_space,
            trainer.seed,
            trainer.total_epochs,
            trainer.precision.name,
            trainer.precision.tensors(),
            [name.removeprefix("step/") for name in names if name.startswith("step/")],
        )

    def empty_model(self, device: torch.device) -> nn.Module:
        """The model with arbitrary numbers; the last one again if it was the same."""
        key = (self.skeleton, device)
        if key not in _last_model:
            _last_model.clear()
            _last_model[key] = unpickle_skeleton(self.skeleton, device)
        return _last_model[key]

    def share_numbers(self, trainer: "Trainer") -> None:
        """Make the numbers of all processes' trainers those of the first; every process must call it."""
        if not trainer.rank.is_first:
            trainer.precision = Precision(self.precision, trainer.device.type)
            trainer.precision.load_tensors(self.scaler)
            allocate_optimizer_state(trainer.model, trainer.optimizer, self.moments)
        trainer.rank.copy_from_first(model_tensors(trainer.model))
        if self.moments:
            trainer.rank.copy_from_first(optimizer_tensors(trainer.model, trainer.optimizer).values())


_last_model: dict[tuple[bytes, torch.device], nn.Module] = {}
