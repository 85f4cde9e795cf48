"""Stage A of a contrastive baseline: image and text encoder learn to meet in the shared space."""

import json
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from medvlmoe.baselines.config import PretrainingConfig
from medvlmoe.baselines.contrastive import ContrastiveBaseline, Texts
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import RenamedTensors, TensorFile, save_tensors
from medvlmoe.model.memory import fill
from medvlmoe.progress import progress_bar
from medvlmoe.seeds import derive_seed
from medvlmoe.training.batches import BatchSource, load_batches, shuffled_batches, training_view
from medvlmoe.training.device import deterministic_algorithms, own_random_state
from medvlmoe.training.optimizer import is_decayed, load_optimizer_tensors, optimizer_tensors, trainable_parameters
from medvlmoe.training.precision import Precision, resolve_precision

logger = logging.getLogger(__name__)

CHECKPOINT = "pretraining.safetensors"


class PairSource(BatchSource, Protocol):
    """Training rows whose texts can be asked for alone: :class:`medvlmoe.data.SiteDataset`."""

    labels_NY: Tensor

    def texts(self, indices: list[int], /) -> tuple[Tensor, Tensor]:
        """Token numbers and attention mask of these rows."""
        ...


def pretrain(
    model: ContrastiveBaseline,
    pairs: PairSource,
    config: PretrainingConfig,
    *,
    seed: int,
    device: torch.device,
    precision: str = "auto",
    workers: int = 0,
    checkpoint_folder: Path | None = None,
    resume: bool = False,
) -> list[float]:
    """Train ``model`` on pairs of image and text; the weights of the last epoch stay.

    The last epoch, not the best: the published methods choose by the loss on held-out reports, and the validation part
    is for stage B. What an epoch does depends on weights, optimizer state, rows, seed and its number, and on nothing
    else, so that a resumed stage ends with the bits of an uninterrupted one.

    Args:
        model: a contrastive baseline; moved to ``device``.
        pairs: training rows with the texts to pair their images with.
        config: choices of the stage.
        seed: of the order of rows, augmentation, dropout and masked tokens.
        device: where to compute.
        precision: as ``training.precision``.
        workers: processes that load batches.
        checkpoint_folder: where ``pretraining.safetensors`` is written after every epoch.
        resume: go on from it, if it is there.

    Returns:
        Mean loss of every epoch.

    Raises:
        ConfigError: fewer than two rows, or the loss is no longer finite.
        CheckpointError: the checkpoint is of another run.
    """
    if config.epochs and len(pairs) < 2:
        raise ConfigError("baseline.pretraining needs two training images or more: a pair needs another to differ from")
    stage = _Stage(model.to(device), pairs, config, seed, device, precision, workers)
    losses = stage.restore(checkpoint_folder) if resume and checkpoint_folder is not None else []
    while len(losses) < config.epochs:
        epoch = len(losses)
        losses.append(stage.train_epoch(epoch))
        logger.info("pre-training epoch %d/%d: loss %.4f", epoch + 1, config.epochs, losses[-1])
        if checkpoint_folder is not None:
            stage.save(checkpoint_folder, losses)
    return losses


class _Stage:
    def __init__(
        self,
        model: ContrastiveBaseline,
        pairs: PairSource,
        config: PretrainingConfig,
        seed: int,
        device: torch.device,
        precision: str,
        workers: int,
    ) -> None:
        self.model, self.pairs, self.config, self.seed, self.device = model, pairs, config, seed, device
        self.workers = workers
        self.precision = Precision(resolve_precision(precision, device), device.type)
        named = trainable_parameters(model)
        decayed = [parameter for name, parameter in named.items() if is_decayed(name, parameter)]
        others = [parameter for name, parameter in named.items() if not is_decayed(name, parameter)]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.learning_rate,
        )
        self.identity = {**asdict(config), "seed": seed, "precision": self.precision.name, "rows": len(pairs)}

    def train_epoch(self, epoch: int) -> float:
        """One pass over the images; the mean loss of its steps."""
        model, config = self.model, self.config
        batches = shuffled_batches(len(self.pairs), config.batch_size, derive_seed(self.seed, "pairs"), epoch)
        text_batches = batches
        if model.decoupled:  # as many texts as images, in an order of their own
            order = [row for rows in self._other_order(epoch) for row in rows]
            text_batches = [[order.pop() for _ in rows] for rows in batches]
        total = 0.0
        model.train()
        with (
            own_random_state(self.device),
            deterministic_algorithms(self.device),
            progress_bar(f"pre-training epoch {epoch + 1}/{config.epochs}") as on_step,
        ):
            torch.manual_seed(derive_seed(self.seed, "pre-training", epoch))
            loaded = load_batches(training_view(self.pairs, self.seed, epoch), batches, self.workers)
            for step, (batch, text_rows) in enumerate(zip(loaded, text_batches, strict=True)):
                self._set_learning_rate((epoch * len(batches) + step) / (config.epochs * len(batches)))
                texts = self._texts(text_rows)
                total += self._step(batch.image_BCHW.to(self.device), batch.labels_BY.to(self.device), texts, epoch)
                if on_step is not None:
                    on_step(step + 1, len(batches))
        self.optimizer.zero_grad(set_to_none=True)
        return total / len(batches)

    def save(self, folder: Path, losses: list[float]) -> None:
        """Write everything needed to go on."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer/{n}": tensor for n, tensor in optimizer_tensors(self.model, self.optimizer).items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self.precision.tensors().items()}
        state = {"identity": self.identity, "losses": losses}
        save_tensors(folder / CHECKPOINT, tensors, {"state": json.dumps(state)})

    def restore(self, folder: Path) -> list[float]:
        """Load what :meth:`save` wrote, if there is anything."""
        path = folder / CHECKPOINT
        if not path.exists():
            return []
        file = TensorFile(path)
        try:
            state = json.loads(file.metadata()["state"])
            identity, losses = state["identity"], [float(loss) for loss in state["losses"]]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not a pre-training checkpoint; start the run anew") from error
        if identity != self.identity:
            raise CheckpointError(f"{path} is of a run with other settings; resume with the same ones")
        optimizer = RenamedTensors(file, "optimizer/")
        try:
            fill(self.model, RenamedTensors(file, "model/"))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{path} does not fit this model; resume with the same model settings") from error
        load_optimizer_tensors(self.model, self.optimizer, optimizer)
        self.precision.load_tensors({name: optimizer[name] for name in optimizer if name.startswith("scaler/")})
        return losses

    def _texts(self, rows: list[int]) -> Texts:
        tensors = (*self.pairs.texts(rows), self.pairs.labels_NY[rows])
        return Texts(*(tensor.to(self.device) for tensor in tensors))

    def _other_order(self, epoch: int) -> list[list[int]]:
        return shuffled_batches(len(self.pairs), self.config.batch_size, derive_seed(self.seed, "texts"), epoch)

    def _set_learning_rate(self, progress: float) -> None:
        warmup = self.config.warmup
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (min(1.0, progress / warmup) if warmup else 1.0)

    def _step(self, image_BCHW: Tensor, labels_BY: Tensor, texts: Texts, epoch: int) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast():
            loss = self.model.pretraining_loss(image_BCHW, labels_BY, texts)
        value = loss.item()
        if not math.isfinite(value) and not self.precision.scales_loss:
            raise ConfigError(
                f"the pre-training loss became not finite in epoch {epoch}; lower baseline.pretraining.learning_rate"
            )
        self.precision.backward(loss)
        parameters = trainable_parameters(self.model).values()
        self.precision.step(self.optimizer, parameters, self.config.gradient_clip)
        return value
