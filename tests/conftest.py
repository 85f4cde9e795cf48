"""Fixtures that several test folders share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small phantom data of all five benchmarks, made once a test session."""
    from medvlmoe.data.phantom import PhantomConfig, generate_phantoms

    root = tmp_path_factory.mktemp("phantom")
    generate_phantoms(PhantomConfig(root=str(root), images_per_site=60, image_size=64, seed=0))
    return root
