from pathlib import Path

import pytest

from medvlmoe.data.phantom import PhantomConfig, generate_phantoms

IMAGES = 80


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All five benchmarks, small; read only."""
    root = tmp_path_factory.mktemp("phantom") / "root"
    generate_phantoms(PhantomConfig(root=str(root), images_per_site=IMAGES, image_size=64, seed=3))
    return root
