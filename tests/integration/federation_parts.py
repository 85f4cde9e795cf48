"""A federation on this machine whose parts can be watched, killed and started again one by one."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medvlmoe.errors import CheckpointError
from medvlmoe.files import load_tensors, read_json, read_json_lines
from simulation.local_federation import LocalFederation
from tests.integration.tcp_proxy import TcpProxy

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") is None, reason="nginx is not installed: make nginx"
)
SITES = ("chestxray14", "retinamnist")
RUN = [
    "model=tiny", "training.precision=float32", "training.bootstrap_resamples=10", "federation.select=last",
    "~data.sites.chexpert", "~data.sites.mimic_cxr", "~data.sites.pathmnist", "output.name=faults",
]  # fmt: skip
Tensors = dict[str, torch.Tensor]
# Part of the federation and command line of each kind of process that can be killed.
COMMANDS = {
    "SuperLink": "flower-superlink",
    "ServerApp": "flwr-serverapp",
    "SuperNode": "client.launcher.supernode",
    "ClientApp": "client.launcher.clientapp",
}
UPLOAD_BYTES_PER_SECOND = 250_000  # of the first hospital's line: seven seconds for the tiny model
NOTHING: dict[str, Any] = {"phase": "", "round": 0, "sites": {}}


class Parts(LocalFederation):
    """A local federation whose server's parts are started one by one, so that each can be killed alone."""

    line: TcpProxy  # of the first hospital
    rounds = 6
    _earlier: int | None = None

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

    def connect_through(self, site: str, port: int) -> None:
        """Let a hospital call the server at another port of this machine."""
        path = self.hospital_kit(site) / "site.yaml"
        described = yaml.safe_load(path.read_text())
        described["server"]["address"] = f"localhost:{port}"
        path.write_text(yaml.safe_dump(described))

    def start_run(self, *more: str) -> None:
        """The one command that starts a run and goes on with it."""
        with contextlib.suppress(CheckpointError):
            self._earlier = read_json(self.run_folder / "status.json")["process"]["pid"]
        own = [f"federation.rounds={self.rounds}", f"federation.sites={len(SITES)}", "resume=true"]
        self.submit([*RUN, *own, *more])

    @property
    def run_folder(self) -> Path:
        return self.server_kit / "runs" / "faults"

    @property
    def status(self) -> dict[str, Any]:
        """What the ServerApp last said; nothing if that one was killed, or is the one of an earlier command."""
        with contextlib.suppress(CheckpointError):
            status = read_json(self.run_folder / "status.json")
            pid, ended = status["process"]["pid"], status["phase"].startswith(("finished", "failed"))
            if pid != self._earlier if ended else _lives(pid):
                return status
        return NOTHING

    def reached(self, server_round: int, phase: str) -> bool:
        """Whether the ServerApp is in a phase of this round or of a later one."""
        status = self.status
        return bool(status["round"] >= server_round and status["phase"] == phase)

    def state_of(self, site: str) -> str:
        return str(self.status["sites"].get(site, {}).get("state", ""))

    def merged_rounds(self) -> list[int]:
        return [line["round"] for line in read_json_lines(self.run_folder / "rounds.jsonl")]

    def sends(self, site: str) -> bool:
        """Whether a hospital's SuperNode is sending a reply of training."""
        last = self.log(site).read_text(errors="replace").rpartition("Sending: train message")[2]
        return not ("Sent successfully" in last or "Failed to send" in last)

    def trained(self, site: str) -> Counter[int]:
        """How often a hospital has answered each round with what it had just trained, from its receipts."""
        return self._answers(site, "training")

    def repeated(self, site: str) -> Counter[int]:
        """How often a hospital has answered each round with the reply it had kept."""
        return self._answers(site, "repetition")

    def _answers(self, site: str, kind: str) -> Counter[int]:
        receipts = read_json_lines(self.hospital_kit(site) / "site" / "receipts.jsonl")
        return Counter(receipt["round"] for receipt in receipts if receipt["kind"] == kind)

    def replied(self, site: str, pid: int) -> bool:
        """Whether a ClientApp has written the receipt of its reply: what comes next is that the reply leaves."""
        with contextlib.suppress(FileNotFoundError):
            return (self.hospital_kit(site) / "site" / "receipts.jsonl").stat().st_mtime > _started(pid)
        return False

    def process(self, part: str, command: str) -> int | None:
        """A process below one of the parts whose command line holds ``command``."""
        session = self._processes[part].pid
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if os.getsid(int(entry.name)) == session and command in (entry / "cmdline").read_text():
                    return int(entry.name)
        return None

    def kill(self, part: str, kind: str) -> None:
        pid = self.process(part, COMMANDS[kind])
        assert pid is not None, f"no {kind} below {part} to kill"
        os.kill(pid, signal.SIGKILL)
        until(lambda: not _lives(pid), f"the end of {kind}", 60)

    @contextlib.contextmanager
    def held(self, part: str, kind: str, condition: Callable[[], bool], what: str, poll: float = 0.05) -> Iterator[int]:
        """A process stands still (SIGSTOP) as long as the context lasts, in a moment in which ``condition`` holds.

        So a phase of a few milliseconds is met for certain. If it was over before the process stood still, the next one
        is waited for. Gives the process's id.
        """
        while True:
            until(condition, what, poll=poll)
            pid = self.process(part, COMMANDS[kind])
            if pid is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                until(lambda: _state(pid) in "TZX", f"{kind} to stand still", 10, poll=0)  # noqa: B023
                if _state(pid) == "T" and condition():
                    break
                os.kill(pid, signal.SIGCONT)
        try:
            yield pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _started(pid: int) -> float:
    ticks = float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    seconds_ago = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - seconds_ago


def _lives(pid: int) -> bool:
    return _state(pid) not in "ZX"


def until(condition: Callable[[], Any], what: str, seconds: float = 900.0, poll: float = 0.05) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(poll)
    return found


def assert_finished_as(parts: Parts, uninterrupted: Callable[[int], Tensors]) -> None:
    until(lambda: parts.status["phase"].startswith(("finished", "failed")), "the end of the run", 900)
    assert parts.status["phase"] == "finished"
    assert parts.merged_rounds() == list(range(1, parts.rounds + 1)), "every round once, in order"
    final = load_tensors(parts.run_folder / "checkpoints" / "final.safetensors")[0]
    expected = uninterrupted(parts.rounds)
    assert final.keys() == expected.keys()
    assert all(torch.equal(final[name], expected[name]) for name in final)
