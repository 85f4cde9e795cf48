"""Trainers of the stand-in model."""

from collections.abc import Callable

import pytest
import torch

from medvlmoe.data.labels import LabelSpace
from medvlmoe.training import Trainer, TrainingConfig
from tests.medvlmoe.training.stand_ins import MIXED, MemoryDataset, StandInModel, make_rows


@pytest.fixture(scope="session")
def label_space() -> LabelSpace:
    return MIXED


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., MemoryDataset]:
    return make_rows


@pytest.fixture(scope="session")
def make_model() -> Callable[..., StandInModel]:
    def make(*, seed: int = 0, dropout: float = 0.2, auxiliary: bool = True, batch_norm: bool = False) -> StandInModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return StandInModel(len(MIXED), dropout, auxiliary, batch_norm)

    return make


@pytest.fixture(scope="session")
def make_trainer(make_model: Callable[..., StandInModel]) -> Callable[..., Trainer]:
    """A trainer of a fresh model; keywords are those of the model, ``seed``, and those of the configuration."""

    def make(
        *, seed: int = 0, total_epochs: int = 4, dropout: float = 0.2, auxiliary: bool = True, batch_norm: bool = False,
        devices: int | str = 1, **config: object,
    ) -> Trainer:  # fmt: skip
        values: dict = {
            "batch_size": 8, "precision": "float32", "warmup_epochs": 1, "encoder_learning_rate": 0.01,
            "head_learning_rate": 0.02, "bootstrap_resamples": 50,
        }  # fmt: skip
        model = make_model(dropout=dropout, auxiliary=auxiliary, batch_norm=batch_norm)
        return Trainer(
            model, TrainingConfig(**values | config), MIXED, seed=seed, devices=devices, total_epochs=total_epochs
        )

    return make
