"""What can be chosen about training. The defaults are the paper's (section 4.1)."""

from dataclasses import dataclass

from medvlmoe.errors import ConfigError

SCHEDULES = ("cosine", "constant")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
ORDINAL_LOSSES = ("cross_entropy", "earth_mover")


@dataclass(kw_only=True)
class TrainingConfig:
    """Choices of the trainer.

    Attributes:
        epochs: passes over the training rows.
        batch_size: rows of one optimizer step (A12: the global batch).
        encoder_learning_rate: peak rate of the image and text encoders.
        head_learning_rate: peak rate of everything else: fusion, router, experts, head (A12).
        weight_decay: AdamW's decoupled decay; none on biases, norms, positions and class tokens (A12).
        beta1: AdamW's decay of the running gradient mean (A12: unstated, torch's default).
        beta2: AdamW's decay of the running squared gradient.
        warmup_epochs: epochs of linear warm-up; at most half of the run is warm-up, so that a short run trains too.
        schedule: ``cosine`` (to 0 at the end of the run, A12) or ``constant`` after the warm-up.
        precision: ``float32``, ``bfloat16``, ``float16`` (CUDA only, with loss scaling) or ``auto``: float16 on CUDA
            (the paper's choice); on a CPU bfloat16 if it has bfloat16 instructions (avx512_bf16 or amx), otherwise
            float32. ``auto`` depends on the machine, never on its load. Loss and router are float32 in all of them.
        accumulate: micro-batches that a batch is cut into, to save memory. The label loss stays that of the whole
            batch; the balance loss (a product of batch means), batch statistics and dropout masks are each
            micro-batch's own.
        gradient_checkpointing: recompute activations in the backward pass, if the model can: slower, less memory.
        gradient_clip: largest norm of the whole gradient; ``None`` does not clip.
        patience: early stopping after so many epochs without a new best validation AUC (A11); 0 never stops.
        ordinal: loss of ordinal blocks: ``cross_entropy``, or ``earth_mover`` (squared distance of the cumulative
            distributions, so that a grade further off costs more).
        bootstrap_resamples: resamples of the patients behind a confidence interval; 0 leaves intervals out.
        workers: processes that load batches; 0 loads in the training process. The result is the same.
    """

    epochs: int = 100
    batch_size: int = 32
    encoder_learning_rate: float = 3e-5
    head_learning_rate: float = 1e-4
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    warmup_epochs: float = 10.0
    schedule: str = "cosine"
    precision: str = "auto"
    accumulate: int = 1
    gradient_checkpointing: bool = False
    gradient_clip: float | None = None
    patience: int = 15
    ordinal: str = "cross_entropy"
    bootstrap_resamples: int = 1000
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "use a whole number of at least 1")
        for name in ("encoder_learning_rate", "head_learning_rate", "weight_decay", "warmup_epochs", "patience"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "it must not be negative")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "use a value from 0 up to below 1")
        for name in ("bootstrap_resamples", "workers"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "it must not be negative")
        _require(
            self.accumulate <= self.batch_size, "accumulate", self.accumulate, "it must not exceed training.batch_size"
        )
        _require(
            self.gradient_clip is None or self.gradient_clip > 0,
            "gradient_clip",
            self.gradient_clip,
            "use a positive norm, or null for none",
        )
        _require_one_of("schedule", self.schedule, SCHEDULES)
        _require_one_of("precision", self.precision, PRECISIONS)
        _require_one_of("ordinal", self.ordinal, ORDINAL_LOSSES)


def _require(holds: bool, name: str, value: object, mend: str) -> None:
    if not holds:
        raise ConfigError(f"training.{name}={value}: {mend}")


def _require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, name, value, f"use one of {', '.join(choices)}")
