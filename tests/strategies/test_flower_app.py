import hashlib
import io
import shutil
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from strategies import flower_app

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", [flower_app.FOLDER, ROOT])
def test_no_code_travels(folder: Path) -> None:
    fab = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(folder)))
    assert sorted(fab.namelist()) == [".info/CONTENT", "pyproject.toml"]


def test_a_copy_elsewhere_makes_the_same_fab(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    shutil.copy(flower_app.FOLDER / "pyproject.toml", tmp_path / "app")
    fab = build_fab_from_disk(tmp_path / "app")
    assert hashlib.sha256(fab).hexdigest() == flower_app.fab_hash()


def test_it_names_the_version_and_the_apps_of_the_package() -> None:
    ours = tomllib.loads((flower_app.FOLDER / "pyproject.toml").read_text())
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert ours["project"]["version"] == package["project"]["version"] == version("medvlmoe")
    assert ours["tool"]["flwr"]["app"] == package["tool"]["flwr"]["app"]
