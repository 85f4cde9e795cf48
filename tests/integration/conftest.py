"""A small hospital on disk, and the command line with the smallest settings."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvlmoe.command_line import run
from medvlmoe.configuration import compose
from medvlmoe.files import load_tensors
from strategies.run_config import RunConfig
from tests.integration.federation_parts import RUN, SITES, UPLOAD_BYTES_PER_SECOND, Parts, Tensors
from tests.integration.tcp_proxy import TcpProxy

QUICK = ["model=tiny", "federation.rounds=1", "training.bootstrap_resamples=10", "training.precision=float32"]
MANIFEST = """\
table: studies.csv
image: file
patient: patient_id
split: part
task: multilabel
label_space: chestxray14
labels: {effusion: Pleural Effusion}
"""
PARTS = ("train", "train", "train", "train", "validation", "validation", "test", "test")


class Hospital:
    """A folder with images, ``studies.csv`` and ``site.yaml``; what a test breaks, it breaks with these methods."""

    def __init__(self, root: Path, images: int = 24, seed: int = 0) -> None:
        self.root = root
        (root / "images").mkdir(parents=True)
        (root / "site.yaml").write_text(MANIFEST)
        random = np.random.default_rng(seed)
        rows = []
        for number in range(images):
            pixels = random.integers(0, 200, (32, 32), dtype=np.uint8)
            if number % 2:
                pixels[10:20, 10:20] = 255
            Image.fromarray(pixels).save(root / "images" / f"{number}.png")
            rows.append([f"images/{number}.png", f"p{number}", str(number % 2), PARTS[number % 8]])
        self.write_table([["file", "patient_id", "effusion", "part"], *rows])

    def table(self) -> list[list[str]]:
        with open(self.root / "studies.csv", newline="", encoding="utf-8") as file:
            return list(csv.reader(file))

    def write_table(self, rows: list[list[str]], encoding: str = "utf-8") -> None:
        with open(self.root / "studies.csv", "w", newline="", encoding=encoding) as file:
            csv.writer(file).writerows(rows)

    def change_column(self, column: str, change: Callable[[str], str], encoding: str = "utf-8") -> None:
        header, *rows = self.table()
        place = header.index(column)
        for row in rows:
            row[place] = change(row[place])
        self.write_table([header, *rows], encoding)

    def change_manifest(self, old: str, new: str) -> None:
        text = (self.root / "site.yaml").read_text()
        assert old in text
        (self.root / "site.yaml").write_text(text.replace(old, new))

    def image(self, number: int) -> Path:
        return self.root / "images" / f"{number}.png"


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path / "north")


@pytest.fixture
def new_hospital(tmp_path: Path) -> Callable[..., Hospital]:
    def make(name: str, **how: int) -> Hospital:
        return Hospital(tmp_path / name, **how)

    return make


@pytest.fixture
def medvlmoe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``medvlmoe COMMAND`` on the hospital ``north``; gives exit code, standard output and error stream."""

    def call(command: str, *more: str, sites: bool = True) -> tuple[int, str, str]:
        site = ["data=none", f"data.root={tmp_path}", "+data.sites.north={kind:manifest,root:north,manifest:site.yaml}"]
        arguments = [
            command,
            *QUICK,
            f"output.root={tmp_path}/runs",
            "output.name=run",
            *(site if sites else []),
            *more,
        ]
        capsys.readouterr()
        code = run(arguments)
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


@pytest.fixture
def parts(tmp_path: Path, phantom_root: Path) -> Iterator[Parts]:
    """A federation of two hospitals; the first has a slow line, so that its upload takes seconds."""
    sites = compose(RunConfig, RUN).data.sites
    with Parts(tmp_path / "federation", sites, phantom_root) as parts:
        parts.start_server()
        with TcpProxy(parts.port, upload_bytes_per_second=UPLOAD_BYTES_PER_SECOND) as parts.line:
            parts.connect_through(SITES[0], parts.line.port)
            for site in SITES:
                parts.start_hospital(site)
            yield parts


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, phantom_root: Path) -> Callable[[int], Tensors]:
    """The final weights of a run of so many rounds to which nothing happened."""

    @cache
    def simulate(rounds: int) -> Tensors:
        root = tmp_path_factory.mktemp("uninterrupted")
        command = [sys.executable, "-m", "medvlmoe", "simulate", *RUN, f"federation.rounds={rounds}"]
        command += [f"data.root={phantom_root}", f"output.root={root}"]
        subprocess.run(command, check=True, timeout=1800, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return load_tensors(root / "faults" / "checkpoints" / "final.safetensors")[0]

    return simulate
