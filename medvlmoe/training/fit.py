"""Whole runs: epochs with early stopping, the best weights restored, resumable after every epoch."""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from medvlmoe.errors import CheckpointError
from medvlmoe.files import RenamedTensors, TensorFile, save_tensors
from medvlmoe.model.memory import fill
from medvlmoe.progress import progress_bar
from medvlmoe.training.batches import BatchSource
from medvlmoe.training.early_stopping import EarlyStopping
from medvlmoe.training.evaluation import Evaluation

if TYPE_CHECKING:
    from medvlmoe.training.trainer import Trainer

logger = logging.getLogger(__name__)

_MAY_CHANGE = ("epochs", "patience", "bootstrap_resamples", "workers")  # between a run and its resumption
LAST_CHECKPOINT = "last.safetensors"
BEST_CHECKPOINT = "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One line of a run's history; plain JSON values.

    Attributes:
        epoch: number of the epoch, from 0.
        train_loss: loss per training row, balance loss included.
        auxiliary_loss: the balance loss alone.
        learning_rate_factor: share of the peak learning rates in the last step.
        skipped_steps: steps left out by loss scaling.
        validation_auc: mean over the validation sets of their AUC; ``None`` without any that is defined.
        validation: metrics of each validation set, without intervals.
        seconds: time of the epoch, validation included.
    """

    epoch: int
    train_loss: float
    auxiliary_loss: float
    learning_rate_factor: float
    skipped_steps: int
    validation_auc: float | None
    validation: dict[str, dict[str, Any]]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a run came to.

    Attributes:
        best_epoch: epoch whose weights the model now has; ``None`` if no validation AUC was ever defined: the last.
        best_auc: its validation AUC.
        stopped_early: whether the patience ran out before the last epoch.
        history: one record an epoch.
    """

    best_epoch: int | None
    best_auc: float | None
    stopped_early: bool
    history: list[EpochRecord]


def fit(
    trainer: "Trainer",
    train: BatchSource,
    validation: BatchSource | Mapping[str, BatchSource] | None,
    *,
    epochs: int | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    checkpoint_folder: Path | None = None,
    resume: bool = False,
) -> FitResult:
    """Train until the last epoch or until the patience runs out; the model then has the weights of the best epoch.

    Args:
        trainer: its model and optimizer state are where the run starts.
        train: training rows.
        validation: rows to judge epochs by; of several named sets the mean AUC counts. Without any (``None``), all
            epochs run and the last weights stay.
        epochs: how many epochs; ``None`` runs the trainer's whole schedule.
        on_epoch: called after each epoch, once its checkpoint is on disk.
        checkpoint_folder: where ``last.safetensors`` (everything to go on) and ``best.safetensors`` (the weights of
            the best epoch) are written after every epoch; ``None`` keeps the best weights in memory.
        resume: go on from ``checkpoint_folder`` if it holds a run. The result is that of an uninterrupted run, bit for
            bit.

    Raises:
        CheckpointError: the folder cannot be written, or holds another run.
    """
    total = trainer.total_epochs if epochs is None else epochs
    sets = _named(validation)
    keeper = _Keeper(trainer, checkpoint_folder)
    stopping = EarlyStopping(trainer.config.patience)
    history: list[EpochRecord] = []
    if resume:
        stopping, history = keeper.restore(stopping)
    while len(history) < total and not stopping.should_stop:
        epoch, started = len(history), time.monotonic()
        with progress_bar(f"epoch {epoch + 1}/{total}") as on_step:
            result = trainer.train_epoch(train, epoch, on_step=on_step)
        evaluations = {name: trainer.evaluate(dataset, intervals=False) for name, dataset in sets.items()}
        record = EpochRecord(
            epoch=epoch,
            train_loss=result.mean_loss,
            auxiliary_loss=result.mean_auxiliary_loss,
            learning_rate_factor=result.learning_rate_factor,
            skipped_steps=result.skipped_steps,
            validation_auc=mean_auc(evaluations),
            validation={name: evaluation.to_dict() for name, evaluation in evaluations.items()},
            seconds=time.monotonic() - started,
        )
        history.append(record)
        if stopping.update(epoch, record.validation_auc):
            keeper.keep_best(epoch)
        keeper.save(stopping, history)
        logger.info("epoch %d/%d: loss %.4f, validation AUC %s, %.1f s", epoch + 1, total, record.train_loss,
                    "undefined" if record.validation_auc is None else f"{record.validation_auc:.4f}",
                    record.seconds)  # fmt: skip
        if on_epoch is not None:
            on_epoch(record)
    keeper.restore_best(stopping.best_epoch)
    return FitResult(
        best_epoch=stopping.best_epoch,
        best_auc=stopping.best_value,
        stopped_early=len(history) < total,
        history=history,
    )


def mean_auc(evaluations: Mapping[str, Evaluation]) -> float | None:
    """Unweighted mean of the AUCs that are defined; ``None`` if none is."""
    areas = [evaluation.auc for evaluation in evaluations.values() if evaluation.auc is not None]
    return math.fsum(areas) / len(areas) if areas else None


class _Keeper:
    """Keeps what a run needs to go on, and its best weights, on disk or (best only) in memory.

    ``best.safetensors`` is written before ``last.safetensors``. A run killed between the two repeats the epoch, finds
    the same best weights and writes them again.
    """

    def __init__(self, trainer: "Trainer", folder: Path | None) -> None:
        self._trainer = trainer
        self._folder = folder
        self._best: dict[str, Tensor] = {}
        # What must be the same for the rest of the run to be the same.
        self._identity = {
            **{name: value for name, value in asdict(trainer.config).items() if name not in _MAY_CHANGE},
            "precision": trainer.precision.name,
            "seed": trainer.seed,
            "total_epochs": trainer.total_epochs,
        }

    def keep_best(self, epoch: int) -> None:
        weights = self._trainer.model.state_dict()
        if self._folder is not None:
            save_tensors(self._folder / BEST_CHECKPOINT, weights, {"epoch": str(epoch)})
        elif self._best:
            for name, tensor in weights.items():  # in place: never two copies
                self._best[name].copy_(tensor)
        else:
            self._best = {name: tensor.to("cpu", copy=True) for name, tensor in weights.items()}

    def restore_best(self, epoch: int | None) -> None:
        if epoch is None:
            return
        if self._folder is None:
            fill(self._trainer.model, self._best)
            return
        path = self._folder / BEST_CHECKPOINT
        best = TensorFile(path)
        found = best.metadata().get("epoch")
        if found != str(epoch):
            raise CheckpointError(f"{path} is of epoch {found}, the run's best is {epoch}; start the run anew")
        self._load_weights(path, best)

    def save(self, stopping: EarlyStopping, history: list[EpochRecord]) -> None:
        if self._folder is None:
            return
        tensors = {f"model/{name}": tensor for name, tensor in self._trainer.model.state_dict().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self._trainer.optimizer_tensors().items()}
        state = {"identity": self._identity, "stopping": stopping.to_dict(),
                 "history": [asdict(record) for record in history]}  # fmt: skip
        save_tensors(self._folder / LAST_CHECKPOINT, tensors, {"state": json.dumps(state)})

    def restore(self, fresh: EarlyStopping) -> tuple[EarlyStopping, list[EpochRecord]]:
        """Load model, optimizer, stopping and history; without a checkpoint, a fresh start."""
        if self._folder is None or not (self._folder / LAST_CHECKPOINT).exists():
            return fresh, []
        path = self._folder / LAST_CHECKPOINT
        tensors = TensorFile(path)  # each tensor is read when its turn comes: the file is three times the model
        try:
            state = json.loads(tensors.metadata()["state"])
            identity = state["identity"]
            stopping = EarlyStopping(**state["stopping"] | {"patience": fresh.patience})
            history = [EpochRecord(**record) for record in state["history"]]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not a training checkpoint: {error}; start the run anew") from error
        if identity != self._identity:
            changed = [name for name in self._identity if identity.get(name) != self._identity[name]]
            raise CheckpointError(f"{path} is of a run with other {', '.join(changed)}; resume with the same settings")
        self._load_weights(path, RenamedTensors(tensors, "model/"))
        self._trainer.load_optimizer_tensors(RenamedTensors(tensors, "optimizer/"))
        return stopping, history

    def _load_weights(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        model = self._trainer.model
        try:
            if model.state_dict().keys() != tensors.keys():
                raise ValueError("it has other tensors")
            fill(model, tensors)
        except ValueError as error:
            raise CheckpointError(f"{path} does not fit this model; resume with the same model settings") from error


def _named(validation: BatchSource | Mapping[str, BatchSource] | None) -> dict[str, BatchSource]:
    if validation is None:
        return {}
    return dict(validation) if isinstance(validation, Mapping) else {"validation": validation}
