"""One cell of the grid: a model on a data set with a seed, in a run folder of its own."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlmoe.analysis.reproduction.results import JOINT, JOINT_NEUTRAL
from medvlmoe.configuration import to_mapping
from medvlmoe.errors import CheckpointError
from medvlmoe.files import read_json
from medvlmoe.training.device import resolve_device
from medvlmoe.training.precision import resolve_precision
from simulation.reproduction.files_version import UPCYCLE_FROM, files_version
from strategies.run_config import RunConfig

CELLS = "cells"
# What decides where or how fast a run computes, not what it comes to.
_WITHOUT_EFFECT = (("output",), ("resume",), ("compare",), ("checkpoint",), ("data", "cache"), ("data", "workers"),
                   ("training", "workers"))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One independent job.

    Attributes:
        dataset: name of the site, or ``joint`` / ``joint_neutral`` for all sites pooled.
        model: name of the model in the grid.
        seed: the seed.
        config: the whole configuration of the run, its folder included.
        identity: hash of the resolved configuration, the data and the code.
        needs: identity of the cell whose weights it starts from; ``None`` for most.
        keeps_weights: whether ``final.safetensors`` stays when the cell is finished.
    """

    dataset: str
    model: str
    seed: int
    config: RunConfig
    identity: str
    needs: str | None = None
    keeps_weights: bool = False

    @property
    def is_joint(self) -> bool:
        """Whether it trains on all sites pooled."""
        return self.dataset in (JOINT, JOINT_NEUTRAL)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.dataset} {self.model} seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return Path(self.config.output.root) / str(self.config.output.name)

    @property
    def weights(self) -> Path:
        """The trained model."""
        return self.folder / "checkpoints" / ("" if self.is_joint else self.dataset) / "final.safetensors"

    def summary(self) -> dict[str, Any] | None:
        """``summary.json`` if the cell is finished: its run came to the end with this very identity."""
        path = self.folder / "summary.json"
        if not path.exists():
            return None
        try:
            summary = read_json(path)
        except CheckpointError:
            return None
        if not isinstance(summary, dict) or summary.get("cell", {}).get("identity") != self.identity:
            return None
        return summary


def identity_of(config: RunConfig, *, data: list[str], code: str, start: str | None = None) -> str:
    """Hash of everything that decides a cell's result.

    Args:
        config: the run's configuration; where it writes, and how many processes read images, do not count. Files that
            it names count by size and time of change, ``training.precision=auto`` by what it is on this machine.
        data: version of each data set.
        code: version of the code.
        start: identity of the cell whose weights it starts from; the file's path does not count.

    Raises:
        ConfigError: there is no such device.
    """
    values = to_mapping(config)
    for *parents, key in _WITHOUT_EFFECT:
        part = values
        for parent in parents:
            part = part[parent]
        del part[key]
    files = files_version(config)
    if start is not None:
        values["model"]["moe"]["upcycle_from"] = start
        files.pop(UPCYCLE_FROM, None)
    values["training"]["precision"] = precision_of(config)
    text = json.dumps({"config": values, "data": data, "code": code, "files": files}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def precision_of(config: RunConfig) -> str:
    """The number format that a run computes in: the given one, and for ``auto`` that of this machine.

    Raises:
        ConfigError: there is no such device.
    """
    given = config.training.precision
    return resolve_precision(given, resolve_device(config.device)) if given == "auto" else given


def folder_name(dataset: str, model: str, seed: int, identity: str) -> str:
    """Name of the run folder below ``output.root``."""
    readable = re.sub(r"[^\w.-]+", "_", dataset, flags=re.ASCII).strip("._-") or "site"
    return f"{CELLS}/{readable}/{model}/seed{seed}-{identity[:12]}"
