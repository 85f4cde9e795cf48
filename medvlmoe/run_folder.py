"""The folder of one run: configuration, one line a round, one line a round and expert, summary, checkpoints."""

import json
import re
import resource
import shutil
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlmoe.configuration import differences
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import append_json_line, read_json, read_json_lines, write_json, write_text
from medvlmoe.folder_lock import FolderLock, lock_folder


@dataclass(kw_only=True)
class OutputConfig:
    """Where results go.

    Attributes:
        root: folder of all runs.
        name: folder of this run below ``root``; ``None`` lets the command choose ``<mode>-seed<seed>``.
        overwrite: delete an older run of the same name instead of refusing.
    """

    root: str = "runs"
    name: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        self.root = str(Path(self.root).expanduser())
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", self.name):
            raise ConfigError(f"output.name={self.name}: use letters, digits, '.', '_', '-'")


# A process that was cut off from its run may take so long to notice and end.
_LOCK_SECONDS = 60.0

# Keys that may differ between a run and its resumption.
_MAY_CHANGE = ("resume", "output", "compare", "data.cache", "data.workers", "training.workers", "federation.rounds",
               "federation.retries", "federation.quorum", "federation.round_seconds", "federation.grace_seconds",
               "federation.unreachable_seconds", "federation.delivery_seconds",
               "federation.connect_seconds")  # fmt: skip


class RunFolder:
    """``<root>/<name>/`` with ``config.json``, ``rounds.jsonl``, ``ledger.jsonl``, ``summary.json``, ``checkpoints/``.

    Attributes:
        path: the folder.
        identity: name of the run plus a random part; stays the same over resumes.
    """

    _lock: FolderLock | None = None

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.identity = identity
        self.checkpoints = path / "checkpoints"
        self.started = time.monotonic()

    @staticmethod
    def has_checkpoint(output: OutputConfig, name: str) -> bool:
        """Whether there is a run that got as far as its first checkpoint. Arguments as for :meth:`open`."""
        return (Path(output.root) / (output.name or name) / "checkpoints" / "state.json").exists()

    @classmethod
    def open(cls, output: OutputConfig, name: str, config: dict[str, Any], *, resume: bool) -> "RunFolder":
        """Create the folder of a run, or open it again to resume. No other process can do so while the object lives.

        Args:
            output: where runs go.
            name: folder name, unless ``output.name`` is set.
            config: the whole configuration, kept in the folder.
            resume: go on with a run that is there; without one, start it.

        Raises:
            ConfigError: the folder is taken, belongs to a run with another configuration, or a process writes to it.
        """
        path = Path(output.root) / (output.name or name)
        identity_file = path / "run.json"
        if not identity_file.exists() and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} is not empty and not a run folder (no run.json); choose another output.name")
        if identity_file.exists() and not resume:
            if not output.overwrite:
                raise ConfigError(
                    f"{path} already holds a run: add resume=true to go on with it, output.overwrite=true to replace "
                    "it, or output.name=… for another folder"
                )
            last = lock_folder(path, _LOCK_SECONDS)
            try:
                shutil.rmtree(path)
            except OSError as error:
                raise CheckpointError(f"cannot replace {path}: {error}; choose another output.name") from error
            del last
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error}; choose another output.root") from error
        lock = lock_folder(path, _LOCK_SECONDS)
        if identity_file.exists():
            _refuse_other_configuration(path, read_json(path / "config.json"), config)
            folder = cls(path, _identity(identity_file))
        else:
            folder = cls(path, f"{path.name}-{uuid.uuid4().hex[:8]}")
            write_json(identity_file, {"identity": folder.identity})
        folder._lock = lock
        write_json(path / "config.json", config)
        write_text(path / "config.yaml", _as_yaml(config))
        return folder

    def record_round(self, line: dict[str, Any], ledger: list[dict[str, Any]]) -> None:
        """Append a round to ``rounds.jsonl`` and its experts to ``ledger.jsonl``."""
        for entry in ledger:
            append_json_line(self.path / "ledger.jsonl", entry)
        append_json_line(self.path / "rounds.jsonl", line)

    def rounds(self) -> list[dict[str, Any]]:
        """The recorded rounds."""
        return list(read_json_lines(self.path / "rounds.jsonl"))

    def forget_rounds_after(self, last: int) -> None:
        """Drop the records of rounds later than ``last``: a resumed run repeats them."""
        for name in ("rounds.jsonl", "ledger.jsonl"):
            path = self.path / name
            lines = list(read_json_lines(path))
            kept = [line for line in lines if line["round"] <= last]
            if len(kept) < len(lines):
                write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        write_json(self.path / "summary.json", summary)

    def seconds(self) -> float:
        """Seconds since this process opened the folder."""
        return time.monotonic() - self.started


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _identity(path: Path) -> str:
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("identity"), str):
        raise CheckpointError(f"{path} does not name a run; replace the run with output.overwrite=true")
    return record["identity"]


def _refuse_other_configuration(path: Path, old: Any, new: dict[str, Any]) -> None:
    if not isinstance(old, dict):
        raise CheckpointError(f"{path / 'config.json'} is damaged; replace the run with output.overwrite=true")
    changed = {key: values for key, values in differences(old, new).items() if not key.startswith(tuple(_MAY_CHANGE))}
    if changed:
        key, (before, now) = next(iter(changed.items()))
        raise ConfigError(
            f"{path} was started with {key}={before}, not {now}"
            + (f" (and {len(changed) - 1} more differences)" if len(changed) > 1 else "")
            + "; resume with the same configuration or choose another output.name"
        )


def _as_yaml(config: dict[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(config))


def read_summary(folder: Path) -> dict[str, Any]:
    """``summary.json`` of a finished run.

    Raises:
        CheckpointError: there is none, or it is not that of a run.
    """
    path = folder / "summary.json"
    if not path.exists():
        raise CheckpointError(f"{folder} has no summary.json: the run is not finished, or this is not a run folder")
    summary = read_json(path)
    if not isinstance(summary, dict) or not {"mode", "sites", "mean_auc"} <= summary.keys():
        raise CheckpointError(f"{path} is not the summary of a run; name the folder of a run")
    return summary
