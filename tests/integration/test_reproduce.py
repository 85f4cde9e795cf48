"""``medvlmoe reproduce`` as a user runs it: killed in the middle, with a broken data set, and whole."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from medvlmoe.analysis.reproduction.results import Results, read_results
from medvlmoe.analysis.table import t_interval
from medvlmoe.errors import EXIT_CELLS_FAILED

pytestmark = pytest.mark.long

QUICK = [
    "preset=tiny",
    "training.precision=float32",
    "training.bootstrap_resamples=20",
    "baseline.pretraining.epochs=1",
]


def start(root: Path, data: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "medvlmoe", "reproduce", *arguments, *QUICK, f"data.root={data}",
               f"data.cache={data}/cache", f"output.root={root}"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def reproduce(root: Path, data: Path, *arguments: str, code: int = 0) -> str:
    process = start(root, data, *arguments)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, out + err
    return err


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def scores(results: Results) -> dict[tuple[str, str, int], torch.Tensor]:
    return {(c.dataset, c.model, c.seed): results.predictions(c).scores_NY for c in results.cells if c.kind}


def times(root: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.glob(pattern)}


def test_a_killed_grid_goes_on_and_ends_with_the_same_results(tmp_path: Path, phantom_root: Path) -> None:
    wanted = ["table2", "seeds=1", "datasets=[retinamnist]", "models=[single_ffn,upcycled]", "training.epochs=12"]
    reproduce(tmp_path / "whole", phantom_root, *wanted)
    whole = read_results(tmp_path / "whole" / "table2-tiny")

    killed = start(tmp_path / "cut", phantom_root, *wanted)
    cells = tmp_path / "cut" / "cells" / "retinamnist"
    wait_for(lambda: list(cells.glob("single_ffn/*/checkpoints/retinamnist/last.safetensors")))
    workers = children_of(killed.pid)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    wait_for(lambda: all(map(is_gone, workers)), 20)  # a worker does not outlive the grid
    finished = times(cells, "medvlmoe/*/**/*")
    assert any(path.name == "summary.json" for path in finished)
    assert not list(cells.glob("single_ffn/*/summary.json")) and not list(cells.glob("upcycled/*"))

    told = reproduce(tmp_path / "cut", phantom_root, *wanted)
    assert "medvlmoe seed 0" not in told and "[2/3] retinamnist single_ffn seed 0" in told
    assert times(cells, "medvlmoe/*/**/*") == finished, "what was finished was not touched"
    log = next(cells.glob("single_ffn/*.log")).read_text()
    assert log.count("epoch 1/12") == 1, "the unfinished run went on instead of starting anew"
    cut = read_results(tmp_path / "cut" / "table2-tiny")
    first, second = scores(whole), scores(cut)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert [cell.sites for cell in cut.cells] == [cell.sites for cell in whole.cells]
    tables = [(tmp_path / name / "table2-tiny" / "table2.csv").read_text() for name in ("whole", "cut")]
    assert tables[0] == tables[1]


def test_a_killed_worker_costs_its_cell_only(tmp_path: Path, phantom_root: Path) -> None:
    wanted = ["table2", "seeds=1", "datasets=[retinamnist]", "models=[dense,top_1]", "training.epochs=12"]
    grid = start(tmp_path, phantom_root, *wanted)
    cells = tmp_path / "cells" / "retinamnist"
    wait_for(lambda: list(cells.glob("dense/*/checkpoints/retinamnist/last.safetensors")))
    (worker,) = [pid for pid in children_of(grid.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(worker, signal.SIGKILL)
    out, err = grid.communicate(timeout=300)
    assert grid.returncode == EXIT_CELLS_FAILED, out + err
    assert "retinamnist dense seed 0: FAILED: its process was killed (signal 9)" in err
    status = {cell.model: cell.status for cell in read_results(tmp_path / "table2-tiny").cells}
    assert status == {"medvlmoe": "finished", "dense": "failed", "top_1": "finished"}
    assert "its process was killed" in (tmp_path / "table2-tiny" / "table2.md").read_text()
    reproduce(tmp_path, phantom_root, *wanted)
    assert {cell.status for cell in read_results(tmp_path / "table2-tiny").cells} == {"finished"}


def test_a_failed_cell_is_reported_and_the_rest_finished(tmp_path: Path, phantom_root: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom_root, data, ignore=shutil.ignore_patterns("cache"))
    broken = next((data / "chestxray14").rglob("*.png"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    wanted = [
        "table1",
        "seeds=2",
        "datasets=[chestxray14,pathmnist]",
        "models=[convirt]",
        "training.epochs=1",
        "jobs=2",
    ]
    err = reproduce(tmp_path, data, *wanted, code=EXIT_CELLS_FAILED)
    lines = [line for line in err.splitlines() if "FAILED: " in line]
    assert len(lines) == 4 and all("chestxray14" in line and broken.name in line for line in lines)
    assert "Traceback" not in err
    results = read_results(tmp_path / "table1-tiny")
    assert {c.dataset for c in results.cells if c.status == "finished"} == {"pathmnist"}
    finished = times(tmp_path, "cells/pathmnist/**/*")
    broken.write_bytes(whole)
    reproduce(tmp_path, data, *wanted)
    assert times(tmp_path, "cells/pathmnist/**/*") == finished
    assert {cell.status for cell in read_results(tmp_path / "table1-tiny").cells} == {"finished"}


def test_everything_on_all_phantoms(tmp_path: Path, phantom_root: Path) -> None:
    reproduce(tmp_path, phantom_root, "all", "seeds=2", "training.epochs=1", "jobs=2")
    folder = tmp_path / "all-tiny"
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "results.json",
        *(f"{table}.{ending}" for table in ("table1", "table2") for ending in ("md", "tex", "csv", "html")),
        *(f"{figure}.{ending}" for figure in ("figure2", "figure3") for ending in ("svg", "png", "json")),
    }
    results = read_results(folder)
    assert len(results.datasets()) == 5
    for name in ("table1", "table2"):
        rows = list(csv.DictReader((folder / f"{name}.csv").open()))
        assert len(rows) == {"table1": 30, "table2": 18}[name]
        for row in rows:
            areas = [cell.sites[row["dataset"]]["auc"] for cell in results.finished(row["dataset"], row["model"])]
            assert float(row["auc"]) == pytest.approx(100 * t_interval(areas)[0])
            assert row["stamps"] == "PHANTOM" and float(row["parameters"]) > 0 and float(row["flops_per_sample"]) > 0
    shown = json.loads((folder / "figure2.json").read_text())["cells"]
    table = {(r["model"], r["dataset"]): r for r in csv.DictReader((folder / "table1.csv").open())}
    assert len(shown) == len(table)
    assert sum(cell["auc"] for cell in shown) == pytest.approx(sum(float(r["auc"]) for r in table.values()) / 100)


def test_a_figure_alone_has_its_intervals(tmp_path: Path, phantom_root: Path) -> None:
    reproduce(tmp_path, phantom_root, "figure2", "seeds=1", "models=[convirt]", "datasets=[retinamnist]",
              "training.epochs=1")  # fmt: skip
    cells = json.loads((tmp_path / "figure2-tiny" / "figure2.json").read_text())["cells"]
    assert [cell["interval"] for cell in cells] == ["95 % bootstrap over patients, one seed"] * 2
    assert all(cell["low"] < cell["auc"] < cell["high"] for cell in cells)
