"""The one trainer: centralized runs, hospital sites and simulations all call it. Shape suffixes: N rows, Y labels."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medvlmoe.data.batch import Batch
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import ConfigError, DataError
from medvlmoe.seeds import derive_seed
from medvlmoe.training.batches import (
    BatchSource,
    load_batches,
    ordered_batches,
    shuffled_batches,
    split_batch,
    training_view,
)
from medvlmoe.training.config import TrainingConfig
from medvlmoe.training.device import deterministic_algorithms, own_random_state, resolve_device
from medvlmoe.training.evaluation import Evaluation, evaluate_scores
from medvlmoe.training.fit import EpochRecord, FitResult, fit
from medvlmoe.training.losses import count_known, label_loss
from medvlmoe.training.metrics import scores_from_logits
from medvlmoe.training.optimizer import (
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    trainable_parameters,
)
from medvlmoe.training.precision import Precision, resolve_precision
from medvlmoe.training.schedule import learning_rate_factor, step_progress


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


class Trainer:
    """Trains and evaluates a model on one device.

    What an epoch does depends on the weights, the optimizer state, the rows, the seed and the number of the epoch,
    and on nothing else: not on what was evaluated in between, nor on which Trainer or process ran the epochs before.

    Args:
        model: called with ``(image_BCHW, input_ids_BL, attention_mask_BL)``; its output has ``logits_BY`` and
            ``auxiliary_loss``. Parameter names follow ``medvlmoe.model.groups``. Moved to ``device``.
        config: choices.
        label_space: the labels of the model's Y outputs.
        seed: of the order of rows, dropout and the bootstrap.
        device: for example ``cpu``, ``cuda:0`` or ``auto``.
        total_epochs: length of the learning rate schedule; ``None`` takes ``config.epochs``.

    Raises:
        ConfigError: the device is not there or cannot train in the configured precision, or nothing is trainable.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        label_space: LabelSpace,
        *,
        seed: int,
        device: str | torch.device = "cpu",
        total_epochs: int | None = None,
    ) -> None:
        self.config = config
        self.label_space = label_space
        self.seed = seed
        self.device = resolve_device(str(device))
        self.total_epochs = total_epochs or config.epochs
        self.precision = Precision(resolve_precision(config.precision, self.device), self.device.type)
        self.model = model.to(self.device)
        set_checkpointing = getattr(model, "set_gradient_checkpointing", None)
        if callable(set_checkpointing):
            set_checkpointing(config.gradient_checkpointing)
        self.optimizer = build_optimizer(model, config)

    def train_epoch(
        self, dataset: BatchSource, epoch: int, *, on_step: Callable[[int, int], None] | None = None
    ) -> EpochResult:
        """One pass over the rows.

        Args:
            dataset: the training rows.
            epoch: number of the epoch, from 0; decides order, random numbers and learning rate.
            on_step: called after each step with the steps done and the steps of the epoch.

        Raises:
            DataError: there are no rows.
            ConfigError: the loss is no longer finite.
        """
        if len(dataset) == 0:
            raise DataError("the training set is empty; check the site's split and root")
        dataset = training_view(dataset, self.seed, epoch)
        batches = shuffled_batches(len(dataset), self.config.batch_size, self.seed, epoch)
        totals = _EpochTotals(len(self.label_space))
        with own_random_state(self.device), deterministic_algorithms(self.device), _mode(self.model, training=True):
            torch.manual_seed(derive_seed(self.seed, "epoch", epoch))
            for step, batch in enumerate(load_batches(dataset, batches, self.config.workers)):
                factor = self._set_learning_rate(step_progress(epoch, step, len(batches)))
                loss, auxiliary_loss, taken = self._step(batch, f"epoch {epoch}, step {step}")
                totals.add(batch, loss, auxiliary_loss, taken)
                if on_step is not None:
                    on_step(step + 1, len(batches))
        self.optimizer.zero_grad(set_to_none=True)  # as large as the model, and of no use until the next epoch
        return totals.result(factor, epoch)

    def predict(self, dataset: BatchSource) -> Tensor:
        """Probabilities of all rows, in the dataset's order: float64 on the CPU, shape N x Y."""
        return scores_from_logits(self._forward_all(dataset).logits_NY, self.label_space)

    def evaluate(self, dataset: BatchSource, *, intervals: bool = True) -> Evaluation:
        """Metrics on a dataset; neither the model's mode nor any random stream is touched.

        Args:
            dataset: rows to judge by; an empty one gives metrics of ``None``.
            intervals: whether to bootstrap confidence intervals.

        Raises:
            ConfigError: the model's outputs are not finite.
        """
        rows = self._forward_all(dataset)
        counts = count_known(rows.labels_NY, self.label_space)
        loss = label_loss(rows.logits_NY, rows.labels_NY, self.label_space, counts, self.config.ordinal)
        return evaluate_scores(
            scores_from_logits(rows.logits_NY, self.label_space),
            rows.labels_NY,
            rows.patient_ids,
            self.label_space,
            resamples=self.config.bootstrap_resamples if intervals else 0,
            seed=derive_seed(self.seed, "bootstrap"),
            loss=float(loss) if any(count.terms for count in counts) else None,
        )

    def fit(
        self,
        train: BatchSource,
        validation: BatchSource | Mapping[str, BatchSource] | None = None,
        *,
        epochs: int | None = None,
        on_epoch: Callable[[EpochRecord], None] | None = None,
        checkpoint_folder: Path | None = None,
        resume: bool = False,
    ) -> FitResult:
        """Train with early stopping and restore the best epoch; see :func:`medvlmoe.training.fit.fit`."""
        return fit(
            self,
            train,
            validation,
            epochs=epochs,
            on_epoch=on_epoch,
            checkpoint_folder=checkpoint_folder,
            resume=resume,
        )

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """State of optimizer and loss scale as flat named tensors, fit for safetensors.

        Names are ``step/…``, ``exp_avg/…``, ``exp_avg_sq/…`` with the parameter's name, and ``scaler/…``. A parameter
        that never had a gradient is absent. The tensors are live: clone what must outlive the next step.
        """
        return optimizer_tensors(self.model, self.optimizer) | self.precision.tensors()

    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`optimizer_tensors` gave; an empty mapping is a fresh optimizer.

        Raises:
            CheckpointError: the tensors are not a whole state of this model's optimizer.
        """
        scaler = {name: tensor for name, tensor in tensors.items() if name.startswith("scaler/")}
        rest = {name: tensor for name, tensor in tensors.items() if name not in scaler}
        load_optimizer_tensors(self.model, self.optimizer, rest)
        self.precision.load_tensors(scaler)

    def _set_learning_rate(self, progress: float) -> float:
        config = self.config
        factor = learning_rate_factor(progress, self.total_epochs, config.warmup_epochs, config.schedule)
        set_learning_rate(self.optimizer, factor)
        return factor

    def _step(self, batch: Batch, place: str) -> tuple[float, float, bool]:
        """One optimizer step; its loss, the balance loss in it, and whether the step was taken."""
        counts = count_known(batch.labels_BY, self.label_space)
        loss_sum = auxiliary_sum = 0.0
        self.optimizer.zero_grad(set_to_none=True)  # an idle expert's gradient must be None, not 0: AdamW decays at 0
        for part in split_batch(batch, self.config.accumulate):
            part = part.to(self.device)
            with self.precision.autocast():
                output = self.model(part.image_BCHW, part.input_ids_BL, part.attention_mask_BL)
            loss = label_loss(output.logits_BY, part.labels_BY, self.label_space, counts, self.config.ordinal)
            auxiliary_loss = output.auxiliary_loss * (len(part) / len(batch))
            loss = loss + auxiliary_loss
            loss_sum += loss.item()
            auxiliary_sum += auxiliary_loss.item()
            if not math.isfinite(loss_sum) and not self.precision.scales_loss:
                raise ConfigError(f"the loss became not finite at {place}; {_MEND_LOSS}")
            self.precision.backward(loss)
        parameters = trainable_parameters(self.model).values()
        taken = self.precision.step(self.optimizer, parameters, self.config.gradient_clip)
        return loss_sum, auxiliary_sum, taken

    def _forward_all(self, dataset: BatchSource) -> "_Rows":
        batches = ordered_batches(range(len(dataset)), self.config.batch_size)
        logits, labels, patient_ids = [], [], []
        with (
            own_random_state(self.device),
            deterministic_algorithms(self.device),
            _mode(self.model, training=False),
            torch.inference_mode(),
        ):
            for batch in load_batches(dataset, batches, self.config.workers):
                labels.append(batch.labels_BY)
                patient_ids.extend(batch.patient_ids)
                batch = batch.to(self.device)
                with self.precision.autocast():
                    output = self.model(batch.image_BCHW, batch.input_ids_BL, batch.attention_mask_BL)
                logits.append(output.logits_BY.float().cpu())
        empty = torch.zeros(0, len(self.label_space))
        logits_NY = torch.cat([empty, *logits])
        if not logits_NY.isfinite().all():
            raise ConfigError(f"the model's outputs are not finite; {_MEND_LOSS}")
        return _Rows(logits_NY, torch.cat([empty, *labels]), patient_ids)


_MEND_LOSS = "lower the learning rate or use training.precision=float32"


@dataclass(frozen=True)
class _Rows:
    logits_NY: Tensor
    labels_NY: Tensor
    patient_ids: list[str]


class _EpochTotals:
    """Sums over the steps of an epoch; steps whose loss overflowed count as steps but not in the mean."""

    def __init__(self, label_count: int) -> None:
        self._observed_labels_Y = torch.zeros(label_count, dtype=torch.int64)
        self._loss = self._auxiliary_loss = 0.0
        self._finite_rows = self._rows = self._steps = self._skipped_steps = 0

    def add(self, batch: Batch, loss: float, auxiliary_loss: float, taken: bool) -> None:
        self._observed_labels_Y += (~batch.labels_BY.isnan()).sum(dim=0)
        self._rows += len(batch)
        self._steps += 1
        self._skipped_steps += not taken
        if math.isfinite(loss):
            self._finite_rows += len(batch)
            self._loss += loss * len(batch)
            self._auxiliary_loss += auxiliary_loss * len(batch)

    def result(self, factor: float, epoch: int) -> EpochResult:
        if self._finite_rows == 0:
            raise ConfigError(f"the loss was not finite in any step of epoch {epoch}; {_MEND_LOSS}")
        return EpochResult(
            mean_loss=self._loss / self._finite_rows,
            mean_auxiliary_loss=self._auxiliary_loss / self._finite_rows,
            samples=self._rows,
            steps=self._steps,
            skipped_steps=self._skipped_steps,
            observed_labels_Y=self._observed_labels_Y,
            learning_rate_factor=factor,
        )


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode; afterwards every module is as before (one may be held in evaluation mode)."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training
