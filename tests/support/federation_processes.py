"""A real federation on loopback: SuperLink, SuperNodes and runs as processes that a test can kill."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from medvlmoe.files import load_tensors, read_json, read_json_lines

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(condition: Callable[[], Any], seconds: float, what: str, poll: float = 0.1) -> Any:
    """Wait for a condition and return its value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(poll)
    return found


class Federation:
    """Processes of one federation; all of them end with :meth:`close`.

    Args:
        folder: keeps logs, site folders, Flower's home and runs.
        sites: each site's ``dataset``, as in ``site.yaml``.
        data_root: folder of the data.
    """

    def __init__(self, folder: Path, sites: dict[str, dict[str, Any]], data_root: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "flower").mkdir(parents=True, exist_ok=True)
        (folder / "flower" / "config.toml").write_text(
            f'[superlink]\ndefault = "lab"\n[superlink.lab]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        for name, dataset in sites.items():
            description = {"name": name, "dataset": dataset, "data_root": str(data_root), "folder": name}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(description))
        self.environment = {
            **os.environ,
            "FLWR_HOME": str(folder / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        }

    def start_superlink(self) -> None:
        self._start("superlink", "flower-superlink", "--insecure", "--port", str(self.port))
        until(self._answers, 60, "the SuperLink")

    def start_site(self, name: str) -> None:
        self._start(
            name, "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.port}",
            "--port", str(free_port()), "--node-config", f'site-config="{self.folder / name}.yaml"',
        )  # fmt: skip

    def start_run(self, *overrides: str) -> None:
        """``flwr run`` with these Hydra overrides; the ServerApp runs below the SuperLink."""
        self._start("run", "flwr", "run", str(ROOT), "lab", "--stream",
                    "--run-config", f'overrides="{" ".join(overrides)}"')  # fmt: skip

    def kill(self, name: str) -> None:
        """SIGKILL one of the processes started here; Flower's own children end by themselves or stay."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def descendants(self, name: str, command: str) -> list[int]:
        """Processes below one of ours whose command line holds ``command``."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                parent = _parent_of(int(entry.name))
                if parent is not None:
                    children.setdefault(parent, []).append(int(entry.name))
        found, waiting = [], [self.processes[name].pid]
        while waiting:
            waiting.extend(new := children.get(waiting.pop(), []))
            found.extend(pid for pid in new if command in _command_of(pid))
        return found

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        ours = [pid for name in self.processes for pid in self.descendants(name, "")]
        for process in self.processes.values():
            process.kill()
            process.wait()
        for pid in ours:
            if str(self.folder) in _environment_of(pid):
                os.kill(pid, signal.SIGKILL)

    def _start(self, name: str, program: str, *arguments: str) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(SCRIPTS / program), *arguments], env=self.environment, stdout=log, stderr=log, cwd=self.folder
            )

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Run:
    """What a run has left in its folder so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def phase(self) -> str:
        return str(self.status["phase"])

    @property
    def status(self) -> dict[str, Any]:
        path = self.folder / "status.json"
        return read_json(path) if path.exists() else {"phase": "", "round": 0, "sites": {}}

    def state_of(self, site: str) -> str:
        return str(self.status["sites"].get(site, {}).get("state", ""))

    def rounds(self) -> list[dict[str, Any]]:
        return list(read_json_lines(self.folder / "rounds.jsonl"))

    def final(self) -> dict[str, torch.Tensor]:
        return load_tensors(self.folder / "checkpoints" / "final.safetensors")[0]

    def await_end(self, seconds: float = 300) -> None:
        until(lambda: self.phase == "finished" or self.phase.startswith("failed"), seconds, "the end of the run")


@contextmanager
def federation(folder: Path, sites: dict[str, dict[str, Any]], data_root: Path) -> Iterator[Federation]:
    """A federation that is ended whatever happens."""
    found = Federation(folder, sites, data_root)
    try:
        yield found
    finally:
        found.close()


def _parent_of(pid: int) -> int | None:
    try:
        matched = re.search(r"^PPid:\s+(\d+)", (Path("/proc") / str(pid) / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(matched[1]) if matched else None


def _command_of(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _environment_of(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""
