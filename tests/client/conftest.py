"""Requests as a server sends them, and sites without data: what is tested here needs no training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from client.config import SiteConfig
from client.policy import SitePolicy
from medvlmoe.data import LabelSpace
from medvlmoe.data.config import DatasetConfig
from medvlmoe.model import MedVLMoEConfig
from medvlmoe.training.config import TrainingConfig
from strategies.messages import Request, RoundConfig, SiteUpdate, build_request, read_request

SPACE = LabelSpace.known("diabetic_retinopathy")
PARAMETERS = {
    "vision.a": torch.arange(6.0).reshape(3, 2),
    "moe.router.weight": torch.ones(2, 3),
    "moe.experts.0.0.weight": torch.full((2, 2), 5.0),
    "moe.experts.1.0.weight": torch.full((2, 2), -5.0),
    "head.weight": torch.arange(10.0).reshape(5, 2),
}


def make_request(codec: str = "float32", server_round: int = 1, **changes: object) -> Request:
    values = {
        "run": "trial-7f", "round": server_round, "rounds": 5, "local_epochs": 1, "keep_optimizer_state": True,
        "seed": 3, "model": MedVLMoEConfig(name="tiny"), "label_space": SPACE, "training": TrainingConfig(),
    }  # fmt: skip
    config = RoundConfig(**{**values, **changes})  # type: ignore[arg-type]
    return read_request(build_request(config, PARAMETERS, "float32", codec))


@pytest.fixture
def request_of() -> Callable[..., Request]:
    return make_request


@pytest.fixture
def site_of(tmp_path: Path) -> Callable[..., SiteConfig]:
    def make(**policy: object) -> SiteConfig:
        dataset = DatasetConfig(kind="manifest", root="nowhere")
        return SiteConfig(name="north", dataset=dataset, folder=str(tmp_path / "site"), policy=SitePolicy(**policy))  # type: ignore[arg-type]

    return make


@pytest.fixture
def parameters() -> dict[str, torch.Tensor]:
    return PARAMETERS


@pytest.fixture
def trained_by() -> Callable[..., SiteUpdate]:
    """What a site has after training: every parameter moved by a change."""

    def make(change: dict[str, torch.Tensor], server_round: int = 1, **values: object) -> SiteUpdate:
        counts = {"routed_samples_K": torch.tensor([8.0, 2.0]), "observed_labels_Y": torch.full((5,), 9.0)}
        return SiteUpdate(
            round=server_round,
            tensors={name: PARAMETERS[name] + delta for name, delta in change.items()},
            examples=10.0,
            **{**counts, **values},  # type: ignore[arg-type]
        )

    return make
