"""A federation on this machine whose parts can be watched, killed and started again one by one."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from medvlmoe.errors import FederationError
from medvlmoe.files import load_tensors, read_json, read_json_lines
from simulation.local_federation import LocalFederation

SITES = ("chestxray14", "retinamnist")
ROUNDS = 6
RUN = [
    "model=tiny", "training.precision=float32", "training.bootstrap_resamples=10", f"federation.rounds={ROUNDS}",
    "federation.select=last", "federation.retries=20", "~data.sites.chexpert", "~data.sites.mimic_cxr",
    "~data.sites.pathmnist", "output.name=faults",
]  # fmt: skip


class Parts(LocalFederation):
    """A local federation whose server's parts are started one by one, so that each can be killed alone."""

    def start_server(self) -> None:
        self.start_superlink()
        for part in ("superexec", "nginx"):
            self.start(part, self.server_kit, f"start-{part}.sh")

    def start_superlink(self) -> None:
        self.start("superlink", self.server_kit, "start-superlink.sh")
        until(lambda: self.flwr("supernode", "list", self.name, capture_output=True).returncode == 0, "the SuperLink")
        subprocess.run(["./register.sh"], cwd=self.server_kit, env=self.environment(), check=True, timeout=120)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    @property
    def status(self) -> dict[str, Any]:
        path = self.server_kit / "runs" / "faults" / "status.json"
        return read_json(path) if path.exists() else {"phase": "", "round": 0, "sites": {}}

    def state_of(self, site: str) -> str:
        return str(self.status["sites"].get(site, {}).get("state", ""))

    def merged_rounds(self) -> list[int]:
        return [line["round"] for line in read_json_lines(self.server_kit / "runs" / "faults" / "rounds.jsonl")]

    def process(self, part: str, command: str) -> int | None:
        """A process below one of the parts whose command line holds ``command``."""
        session = self._processes[part].pid
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if os.getsid(int(entry.name)) == session and command in (entry / "cmdline").read_text():
                    return int(entry.name)
        return None

    def kill(self, part: str, command: str) -> None:
        pid = self.process(part, command)
        assert pid is not None, f"no {command} below {part} to kill"
        os.kill(pid, signal.SIGKILL)

    def start_run(self, *more: str) -> threading.Thread:
        """``flwr run`` in the background; that it fails is expected when its ServerApp is killed."""

        def run() -> None:
            with contextlib.suppress(FederationError), open(self.folder / "run.log", "a") as log:
                self.run([*RUN, f"federation.sites={len(SITES)}", "resume=true", *more], output=log)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


def until(condition: Callable[[], Any], what: str, seconds: float = 900.0, poll: float = 0.05) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(poll)
    return found


def assert_finished_as(parts: Parts, uninterrupted: dict[str, torch.Tensor]) -> None:
    until(lambda: parts.status["phase"] == "finished", "the end of the run", 1800)
    assert parts.merged_rounds() == list(range(1, ROUNDS + 1)), "every round once, in order"
    final = load_tensors(parts.server_kit / "runs" / "faults" / "checkpoints" / "final.safetensors")[0]
    assert final.keys() == uninterrupted.keys()
    assert all(torch.equal(final[name], uninterrupted[name]) for name in final)
