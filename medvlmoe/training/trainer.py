"""The one trainer: centralized runs, hospital sites and simulations all call it. Shape suffixes: N rows, Y labels."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medvlmoe.data.batch import Batch
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import ConfigError, DataError
from medvlmoe.parallel.local_processes import Task, local_processes
from medvlmoe.parallel.rank import Rank
from medvlmoe.privacy.randomness import Stream
from medvlmoe.privacy.units import PrivacyUnits
from medvlmoe.seeds import derive_seed
from medvlmoe.training.batches import (
    BatchSource,
    Share,
    load_batches,
    ordered_batches,
    share_of,
    shuffled_batches,
    split_batch,
    training_view,
)
from medvlmoe.training.config import TrainingConfig
from medvlmoe.training.data_parallel import Network, summed_counters
from medvlmoe.training.device import deterministic_algorithms, own_random_state, resolve_devices
from medvlmoe.training.epoch import MEND_LOSS, EpochResult, EpochTotals
from medvlmoe.training.evaluation import Evaluation, evaluate_scores
from medvlmoe.training.fit import EpochRecord, FitResult, fit
from medvlmoe.training.losses import BlockCounts, count_known, label_loss
from medvlmoe.training.metrics import scores_from_logits
from medvlmoe.training.optimizer import (
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    trainable_parameters,
)
from medvlmoe.training.precision import Precision, resolve_precision
from medvlmoe.training.predictions import Predictions
from medvlmoe.training.private_steps import PrivateEpoch, PrivateSteps, SamplingPlan, refuse_what_is_not_private
from medvlmoe.training.replica import Replica
from medvlmoe.training.schedule import learning_rate_factor, step_progress


class Trainer:
    """Trains and evaluates a model on one device or several.

    What an epoch does depends on the weights, the optimizer state, the rows, the seed, the number of the epoch and the
    number of devices, and on nothing else: not on what was evaluated in between, nor on which Trainer or process ran
    the epochs before. The number of devices changes dropout masks, router noise and the order of additions only.

    With several devices this process keeps model and optimizer and computes on the first device. The others have a
    process each, which receives weights and optimizer state with every call and keeps nothing.

    Args:
        model: called with ``(image_BCHW, input_ids_BL, attention_mask_BL)``; its output has ``logits_BY`` and
            ``auxiliary_loss``. Parameter names follow ``medvlmoe.model.groups``. Moved to ``device``.
        config: choices.
        label_space: the labels of the model's Y outputs.
        seed: of the order of rows, dropout and the bootstrap.
        device: for example ``cpu``, ``cuda:0`` or ``auto``.
        devices: how many of them, or ``all``; see :func:`medvlmoe.training.device.resolve_devices`.
        total_epochs: length of the learning rate schedule; ``None`` takes ``config.epochs``.
        rank: which of the processes that share a batch this is. Only the processes that a Trainer starts give it.
        private_steps: train with record-level differential privacy; ``None`` without.

    Raises:
        ConfigError: the device is not there or cannot train in the configured precision, a batch has fewer rows than
            there are devices, nothing is trainable, or a choice would break the privacy that was asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        label_space: LabelSpace,
        *,
        seed: int,
        device: str | torch.device = "cpu",
        devices: int | str = 1,
        total_epochs: int | None = None,
        rank: Rank | None = None,
        private_steps: PrivateSteps | None = None,
    ) -> None:
        self.config = config
        self.label_space = label_space
        self.seed = seed
        self.devices = resolve_devices(str(device), devices)
        self.device = self.devices[0]
        self.rank = rank or Rank(0, len(self.devices))
        if config.batch_size < len(self.devices):
            raise ConfigError(
                f"training.batch_size={config.batch_size} has fewer rows than there are devices ({len(self.devices)}); "
                "use fewer devices or a larger batch"
            )
        self.total_epochs = total_epochs or config.epochs
        self.precision = Precision(resolve_precision(config.precision, self.device), self.device.type)
        self.private_steps = private_steps
        if private_steps is not None:
            refuse_what_is_not_private(model, config, self.precision.name)
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
        if self.private_steps is not None:
            return self._train_privately(self.private_steps, dataset, epoch, on_step)
        with self._together(_train_epoch, dataset, epoch, with_optimizer=True):
            return self._train_share(dataset, epoch, on_step)

    def predict(self, dataset: BatchSource) -> Tensor:
        """Probabilities of all rows, in the dataset's order: float64 on the CPU, shape N x Y."""
        return scores_from_logits(self._forward_all(dataset).logits_NY, self.label_space)

    def evaluate(self, dataset: BatchSource, *, intervals: bool = True, min_patients: int = 1) -> Evaluation:
        """Metrics on a dataset; neither the model's mode nor any random stream is touched.

        Args:
            dataset: rows to judge by; an empty one gives metrics of ``None``.
            intervals: whether to bootstrap confidence intervals.
            min_patients: see :func:`medvlmoe.training.evaluation.evaluate_scores`.

        Raises:
            ConfigError: the model's outputs are not finite.
        """
        return self.judge(self.score(dataset), intervals=intervals, min_patients=min_patients)

    def score(self, dataset: BatchSource) -> Predictions:
        """The model's scores of all rows beside their labels, as :meth:`evaluate` judges them.

        Raises:
            ConfigError: the model's outputs are not finite.
        """
        rows = self._forward_all(dataset)
        counts = count_known(rows.labels_NY, self.label_space)
        loss = label_loss(rows.logits_NY, rows.labels_NY, self.label_space, counts, self.config.ordinal)
        return Predictions(
            scores_NY=scores_from_logits(rows.logits_NY, self.label_space),
            labels_NY=rows.labels_NY,
            patient_ids=rows.patient_ids,
            label_space=self.label_space,
            loss=float(loss) if any(count.terms for count in counts) else None,
            demographics=getattr(dataset, "demographics", None),
        )

    def judge(self, predictions: Predictions, *, intervals: bool = True, min_patients: int = 1) -> Evaluation:
        """Metrics of scores that :meth:`score` gave; arguments as for :meth:`evaluate`."""
        return evaluate_scores(
            predictions.scores_NY,
            predictions.labels_NY,
            predictions.patient_ids,
            self.label_space,
            resamples=self.config.bootstrap_resamples if intervals else 0,
            seed=derive_seed(self.seed, "bootstrap"),
            loss=predictions.loss,
            min_patients=min_patients,
        )

    def routed_records(self, dataset: BatchSource, share_N: Tensor | None = None) -> Tensor:
        """Records that each expert gets in evaluation mode; float64, shape (K,).

        Each record is counted once, or as ``share_N`` (float64) says. With ``moe.unit=token`` a record counts at an
        expert by the share of its tokens that go there. Needs a model with experts.
        """
        batches = ordered_batches(range(len(dataset)), self.config.batch_size)
        total_K = torch.zeros(0, dtype=torch.float64)
        with own_random_state(self.device), _mode(self.model, training=False), torch.inference_mode():
            for rows, batch in zip(batches, load_batches(dataset, batches, self.config.workers), strict=True):
                batch = batch.to(self.device)
                routing = self.model(batch.image_BCHW, batch.input_ids_BL, batch.attention_mask_BL).routing
                units = len(routing.expert_index_BJ) // len(batch)
                share_B = torch.ones(len(batch)) if share_N is None else share_N[rows]
                weight_BJ = share_B.double().repeat_interleave(units * routing.expert_index_BJ.shape[1]) / units
                chosen_K = (
                    routing.expert_index_BJ.flatten()
                    .cpu()
                    .bincount(weight_BJ, minlength=routing.probabilities_BK.shape[1])
                )
                total_K = chosen_K if len(total_K) == 0 else total_K + chosen_K
        return total_K

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
        load_optimizer_tensors(self.model, self.optimizer, tensors)
        self.precision.load_tensors({name: tensors[name] for name in tensors if name.startswith("scaler/")})

    def _set_learning_rate(self, progress: float) -> float:
        config = self.config
        factor = learning_rate_factor(progress, self.total_epochs, config.warmup_epochs, config.schedule)
        set_learning_rate(self.optimizer, factor)
        return factor

    @contextmanager
    def _together(
        self, task: Task, *arguments: object, with_optimizer: bool = False
    ) -> Iterator[Callable[[], list[Any]]]:
        """Let the other devices' processes do ``task`` meanwhile; gives what collects their results."""
        if len(self.devices) == 1:
            yield list
            return
        replica = Replica.of(self, with_optimizer=with_optimizer)
        with local_processes(self.devices).running(task, replica, *arguments) as collect:
            replica.share_numbers(self)
            yield collect

    def _train_share(
        self, dataset: BatchSource, epoch: int, on_step: Callable[[int, int], None] | None = None
    ) -> EpochResult:
        """This process's share of an epoch; the result is that of all processes."""
        batches = shuffled_batches(len(dataset), self.config.batch_size, self.seed, epoch)
        shares = [share_of(rows, self.config.accumulate, self.rank) for rows in batches]
        totals = EpochTotals(len(self.label_space), self.rank)
        network = Network(self.model, self.rank, self.device)
        stream = ("epoch", epoch) if self.rank.is_first else ("epoch", epoch, "process", self.rank.number)
        with own_random_state(self.device), deterministic_algorithms(self.device), _mode(self.model, training=True):
            torch.manual_seed(derive_seed(self.seed, *stream))
            view = training_view(dataset, self.seed, epoch)
            loaded = load_batches(view, [share.rows for share in shares], self.config.workers)
            for step, (share, batch) in enumerate(zip(shares, loaded, strict=True)):
                factor = self._set_learning_rate(step_progress(epoch, step, len(shares)))
                totals.add(share, batch, *self._step(network, share, batch, f"epoch {epoch}, step {step}"))
                if on_step is not None:
                    on_step(step + 1, len(shares))
        self.optimizer.zero_grad(set_to_none=True)  # as large as the model, and of no use until the next epoch
        return totals.result(factor, epoch)

    def _train_privately(
        self, private: PrivateSteps, dataset: BatchSource, epoch: int, on_step: Callable[[int, int], None] | None
    ) -> EpochResult:
        """An epoch of DP-SGD; all that is random in it comes from the site's secret, drawn in this process alone."""
        units = PrivacyUnits.of(private.config.unit, dataset)
        plan = SamplingPlan.of(len(units), self.config.batch_size)
        stream = private.randomness.stream(epoch)
        epoch_of = PrivateEpoch(epoch, plan, private.batches(units, plan, stream), stream.below(2**62))
        with self._together(_train_private_epoch, private, dataset, epoch_of, with_optimizer=True):
            return self._train_private_share(private, dataset, epoch_of, stream, on_step)

    def _train_private_share(
        self,
        private: PrivateSteps,
        dataset: BatchSource,
        drawn: PrivateEpoch,
        stream: Stream | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> EpochResult:
        """This process's share of every step's records; noise is added by the first process, which has the stream."""
        loss_sum = router_sum = factor = 0.0
        observed_labels_Y = torch.zeros(len(self.label_space), dtype=torch.int64)
        steps = [private.parts(rows, self.rank) for rows in drawn.steps]
        purpose = ("epoch", drawn.epoch) if self.rank.is_first else ("epoch", drawn.epoch, "process", self.rank.number)
        with own_random_state(self.device), deterministic_algorithms(self.device), _mode(self.model, training=True):
            torch.manual_seed(derive_seed(drawn.secret, *purpose))
            view = training_view(dataset, drawn.secret, drawn.epoch)
            loaded = load_batches(view, [rows for parts in steps for rows in parts], self.config.workers)
            with summed_counters(self.model, self.rank):
                for step, parts in enumerate(steps):
                    factor = self._set_learning_rate(step_progress(drawn.epoch, step, len(steps)))
                    sums: dict[str, Tensor] = {}
                    for batch in itertools.islice(loaded, len(parts)):
                        observed_labels_Y += (~batch.labels_BY.isnan()).sum(dim=0)
                        loss, router_loss = private.add_part(
                            self.model, batch.to(self.device), self.label_space, self.config.ordinal, sums
                        )
                        loss_sum, router_sum = loss_sum + loss, router_sum + router_loss
                    private.set_gradients(self.model, sums, drawn.plan, stream, self.rank)
                    self.optimizer.step()
                    if on_step is not None:
                        on_step(step + 1, len(steps))
        self.optimizer.zero_grad(set_to_none=True)
        samples = sum(map(len, drawn.steps))
        loss_sum, router_sum = self.rank.sum(torch.tensor([loss_sum, router_sum], dtype=torch.float64)).tolist()
        return EpochResult(
            mean_loss=loss_sum / max(1, samples),
            mean_auxiliary_loss=router_sum / max(1, samples),
            samples=samples,
            steps=len(steps),
            skipped_steps=0,
            observed_labels_Y=self.rank.sum(observed_labels_Y),
            learning_rate_factor=factor,
        )

    def _step(self, network: Network, share: Share, batch: Batch, place: str) -> tuple[float, float, bool]:
        """One optimizer step; this process's share of the loss, of the balance loss in it, and if it was taken."""
        counts = self._batch_counts(share, batch)
        loss_sum = auxiliary_sum = 0.0
        self.optimizer.zero_grad(set_to_none=True)  # an idle expert's gradient must be None, not 0: AdamW decays at 0
        for number, part in enumerate(split_batch(batch, map(len, share.micro_batches)), start=1):
            part = part.to(self.device)
            with network.micro_batch(share, is_last=number == len(share.micro_batches)):
                with self.precision.autocast():
                    output = network(part.image_BCHW, part.input_ids_BL, part.attention_mask_BL)
                loss = label_loss(output.logits_BY, part.labels_BY, self.label_space, counts, self.config.ordinal)
                auxiliary_loss = output.auxiliary_loss * (len(part) / share.batch_rows)
                loss = loss + auxiliary_loss
                loss_sum += loss.item()
                auxiliary_sum += auxiliary_loss.item()
                if not math.isfinite(loss_sum) and not self.precision.scales_loss:
                    raise ConfigError(f"the loss became not finite at {place}; {MEND_LOSS}")
                self.precision.backward(loss * network.loss_factor(share))
        parameters = trainable_parameters(self.model).values()
        taken = self.precision.step(self.optimizer, parameters, self.config.gradient_clip)
        return loss_sum, auxiliary_sum, taken

    def _batch_counts(self, share: Share, batch: Batch) -> list[BlockCounts]:
        counts = count_known(batch.labels_BY, self.label_space)
        if not share.is_divided:
            return counts
        summed = self.rank.sum(torch.tensor([(count.rows, count.terms) for count in counts]))
        return [BlockCounts(rows, terms) for rows, terms in summed.tolist()]

    def _forward_all(self, dataset: BatchSource) -> "_Rows":
        batches = ordered_batches(range(len(dataset)), self.config.batch_size)
        if len(batches) < 2:
            return self._joined([self._forward(dataset, batches)])
        bounds = [len(batches) * place // len(self.devices) for place in range(len(self.devices) + 1)]
        shares = [batches[start:end] for start, end in itertools.pairwise(bounds)]
        with self._together(_forward, dataset, shares) as collect:
            return self._joined([self._forward(dataset, shares[0]), *collect()])

    def _joined(self, parts: Sequence["_Rows"]) -> "_Rows":
        logits_NY = torch.cat([part.logits_NY for part in parts])
        if not logits_NY.isfinite().all():
            raise ConfigError(f"the model's outputs are not finite; {MEND_LOSS}")
        patient_ids = [patient for part in parts for patient in part.patient_ids]
        return _Rows(logits_NY, torch.cat([part.labels_NY for part in parts]), patient_ids)

    def _forward(self, dataset: BatchSource, batches: list[list[int]]) -> "_Rows":
        empty = torch.zeros(0, len(self.label_space))
        logits, labels, patient_ids = [empty], [empty], []
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
        return _Rows(torch.cat(logits), torch.cat(labels), patient_ids)


@dataclass(frozen=True)
class _Rows:
    logits_NY: Tensor
    labels_NY: Tensor
    patient_ids: list[str]


def _replicated(rank: Rank, device: torch.device, replica: Replica) -> Trainer:
    """The first process's trainer in another process."""
    trainer = Trainer(
        replica.empty_model(device),
        replica.config,
        replica.label_space,
        seed=replica.seed,
        device=device,
        total_epochs=replica.total_epochs,
        rank=rank,
    )
    replica.share_numbers(trainer)
    return trainer


def _train_epoch(rank: Rank, device: torch.device, replica: Replica, dataset: BatchSource, epoch: int) -> None:
    _replicated(rank, device, replica)._train_share(dataset, epoch)


def _train_private_epoch(
    rank: Rank, device: torch.device, replica: Replica, private: PrivateSteps, dataset: BatchSource, drawn: PrivateEpoch
) -> None:
    _replicated(rank, device, replica)._train_private_share(private, dataset, drawn)


def _forward(
    rank: Rank, device: torch.device, replica: Replica, dataset: BatchSource, shares: list[list[list[int]]]
) -> _Rows:
    return _replicated(rank, device, replica)._forward(dataset, shares[rank.number])


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
