"""Trainer, losses, metrics and optimizer of MedVLMoE."""

from typing import TYPE_CHECKING

from medvlmoe.lazy_package import lazy_attributes

if TYPE_CHECKING:
    from medvlmoe.training.config import TrainingConfig
    from medvlmoe.training.evaluation import Evaluation
    from medvlmoe.training.fit import EpochRecord, FitResult
    from medvlmoe.training.trainer import EpochResult, Trainer

__all__ = [
    "EpochRecord",
    "EpochResult",
    "Evaluation",
    "FitResult",
    "Trainer",
    "TrainingConfig",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "EpochRecord": "fit",
        "EpochResult": "trainer",
        "Evaluation": "evaluation",
        "FitResult": "fit",
        "Trainer": "trainer",
        "TrainingConfig": "config",
    },
)
