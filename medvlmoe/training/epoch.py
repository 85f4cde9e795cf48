"""What an epoch came to. Shape suffixes: S steps, Y labels."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medvlmoe.data.batch import Batch
from medvlmoe.errors import ConfigError
from medvlmoe.parallel.rank import Rank
from medvlmoe.training.batches import Share

MEND_LOSS = "lower the learning rate or use training.precision=float32"


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """One pass over the training rows.

    Attributes:
        mean_loss: loss per row, balance loss included.
        mean_auxiliary_loss: the balance loss alone.
        samples: rows seen.
        steps: optimizer steps, those left out included.
        skipped_steps: steps that loss scaling left out for a non-finite gradient.
        observed_labels_Y: int64, known entries of each label among the rows.
        learning_rate_factor: share of the peak learning rates in the last step.
    """

    mean_loss: float
    mean_auxiliary_loss: float
    samples: int
    steps: int
    skipped_steps: int
    observed_labels_Y: Tensor
    learning_rate_factor: float


class EpochTotals:
    """Sums over the steps of an epoch; steps whose loss overflowed count as steps but not in the mean.

    Each process adds its share of every step; the result is that of all processes.
    """

    def __init__(self, label_count: int, rank: Rank) -> None:
        self._rank = rank
        self._observed_labels_Y = torch.zeros(label_count, dtype=torch.int64)
        self._losses_S: list[tuple[float, float]] = []
        self._rows_S: list[int] = []
        self._skipped_steps = 0

    def add(self, share: Share, batch: Batch, loss: float, auxiliary_loss: float, taken: bool) -> None:
        """Count a step: this process's share of its losses and labels."""
        counts = share.is_divided or self._rank.is_first  # what all have computed alike must count once
        self._losses_S.append((loss, auxiliary_loss) if counts else (0.0, 0.0))
        if counts:
            self._observed_labels_Y += (~batch.labels_BY.isnan()).sum(dim=0)
        self._rows_S.append(share.batch_rows)
        self._skipped_steps += not taken

    def result(self, factor: float, epoch: int) -> EpochResult:
        """The sums over all steps and processes; every process must call it.

        Raises:
            ConfigError: no step's loss was finite.
        """
        losses_S2 = self._rank.sum(torch.tensor(self._losses_S, dtype=torch.float64))
        observed_labels_Y = self._rank.sum(self._observed_labels_Y)
        loss_sum = auxiliary_sum = 0.0
        finite_rows = 0
        for (loss, auxiliary_loss), rows in zip(losses_S2.tolist(), self._rows_S, strict=True):
            if math.isfinite(loss):
                finite_rows += rows
                loss_sum += loss * rows
                auxiliary_sum += auxiliary_loss * rows
        if finite_rows == 0:
            raise ConfigError(f"the loss was not finite in any step of epoch {epoch}; {MEND_LOSS}")
        return EpochResult(
            mean_loss=loss_sum / finite_rows,
            mean_auxiliary_loss=auxiliary_sum / finite_rows,
            samples=sum(self._rows_S),
            steps=len(self._rows_S),
            skipped_steps=self._skipped_steps,
            observed_labels_Y=observed_labels_Y,
            learning_rate_factor=factor,
        )
