"""Trainer, losses, metrics and optimizer of MedVLMoE."""

from medvlmoe.training.config import TrainingConfig
from medvlmoe.training.evaluation import Evaluation
from medvlmoe.training.fit import EpochRecord, FitResult
from medvlmoe.training.trainer import EpochResult, Trainer

__all__ = ["EpochRecord", "EpochResult", "Evaluation", "FitResult", "Trainer", "TrainingConfig"]
