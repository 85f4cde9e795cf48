"""A federation over the network whose parts all run on this machine, from the same kits as a real one.

Server (SuperLink, SuperExec, nginx) and hospitals are processes of their own; every connection is TLS over loopback.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

import yaml

from medvlmoe.data.config import DatasetConfig
from medvlmoe.errors import ConfigError, FederationError
from server.provisioning.config import HospitalConfig, NginxConfig, ProvisionConfig, SuperLinkConfig
from server.provisioning.kits import write_kits

_START_SECONDS = 180.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.5


class LocalFederation:
    """Kits below a folder, and the processes that their scripts start; a context manager that ends them all.

    Args:
        folder: for the kits, the logs, and the results of the runs. Kits that are there are brought up to date.
        hospitals: data by hospital name.
        data_root: folder that a relative ``root`` of the data starts from.
        superlink: settings of the SuperLink but its port, which is a free one.

    Raises:
        ConfigError: nginx is not installed.
    """

    def __init__(
        self,
        folder: Path,
        hospitals: Mapping[str, DatasetConfig],
        data_root: Path,
        superlink: Mapping[str, Any] | None = None,
    ) -> None:
        if shutil.which("nginx", path=_search_path()) is None:
            raise ConfigError("nginx is not installed; `make nginx` installs it (Debian's nginx-light)")
        self.folder = folder.absolute()
        self.name = "local"
        ports = free_ports(2 + len(hospitals))
        self.superlink_port, self.port, *runtime_ports = ports
        self.config = ProvisionConfig(
            name=self.name,
            hosts=["localhost", "127.0.0.1"],
            port=self.port,
            hospitals=[HospitalConfig(name=name) for name in hospitals],
            superlink=SuperLinkConfig(port=self.superlink_port, **(superlink or {})),
            nginx=NginxConfig(address="127.0.0.1", user="root" if os.geteuid() == 0 else None),
            output=str(self.folder / "kits"),
        )
        write_kits(self.config)
        for (name, dataset), port in zip(hospitals.items(), runtime_ports, strict=True):
            self._write_site(name, dataset, data_root.absolute(), port)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self._processes)):
            self.stop(name)

    @property
    def server_kit(self) -> Path:
        """Folder of the server's kit."""
        return self.folder / "kits" / "server"

    def hospital_kit(self, name: str) -> Path:
        """Folder of a hospital's kit."""
        return self.folder / "kits" / "hospitals" / name

    def start_server(self) -> None:
        """Start SuperLink, SuperExec and nginx; comes back when hospitals can connect.

        Raises:
            FederationError: the server ended, or is not there in time.
        """
        self.start("server", self.server_kit, "start.sh")
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(self.port):
            if self._processes["server"].poll() is not None or time.monotonic() > deadline:
                raise FederationError(f"the server did not start; see {self.log('server')}")
            time.sleep(_POLL_SECONDS)

    def start_hospital(self, name: str) -> None:
        """Start a hospital's SuperNode; it connects by itself."""
        self.start(name, self.hospital_kit(name), "start.sh")

    def start(self, name: str, kit: Path, script: str) -> int:
        """Start a script of a kit as a process of its own, in a session of its own; its id."""
        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        with open(self.log(name), "ab") as log:
            self._processes[name] = subprocess.Popen(
                [f"./{script}"], cwd=kit, env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        return self._processes[name].pid

    def stop(self, name: str) -> None:
        """End a part that was started, and all that it started."""
        process = self._processes.pop(name)
        for which, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, which)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                break

    def log(self, name: str) -> Path:
        """Output of a part."""
        return self.folder / "logs" / f"{name}.log"

    def submit(self, overrides: Sequence[str]) -> str:
        """``flwr run`` on the server, without waiting for its end; the run's id.

        Args:
            overrides: Hydra overrides of the run. A relative ``output.root`` is one in the server's kit.

        Raises:
            FederationError: the run was refused, or the SuperLink does not answer.
        """
        settings = self.folder / "run.toml"
        # A text of JSON is one of TOML.
        settings.write_text(f"overrides = {json.dumps(shlex.join(overrides), ensure_ascii=False)}\n", encoding="utf-8")
        return str(self._flwr_json("run", "app", self.name, "--run-config", str(settings))["run-id"])

    def run(self, overrides: Sequence[str], output: IO[str] | None = None) -> None:
        """:meth:`submit`, and wait for the end.

        Args:
            overrides: see :meth:`submit`.
            output: gets the log of the ServerApp; ``None``: this process's standard output.

        Raises:
            FederationError: the run was refused or failed, or the SuperLink is gone.
        """
        run_id = self.submit(overrides)
        self.flwr("log", run_id, self.name, "--stream", stdout=output)
        while True:  # the log may end a little before the run does
            (state,) = self._flwr_json("list", self.name, "--run-id", run_id)["runs"]
            if state["status"].startswith("finished"):
                break
            time.sleep(_POLL_SECONDS)
        if state["status"] != "finished:completed":
            raise FederationError(f"the run ended as {state['status']} ({state['status-details']})")

    def flwr(self, *arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Flower's command line with the server kit's settings."""
        command = ["sh", "-c", '. ./environment.sh && exec flwr "$@"', "flwr", *arguments]
        return subprocess.run(command, cwd=self.server_kit, env=_environment(), text=True, check=False, **how)

    def _flwr_json(self, *arguments: str) -> dict[str, Any]:
        given = self.flwr(*arguments, "--format", "json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            answer = json.loads(given.stdout)
        except ValueError:
            answer = {"success": False, "error-message": given.stderr or given.stdout}
        if not answer["success"]:
            said = answer.get("error-message") or answer.get("note") or given.stderr
            raise FederationError(f"flwr {arguments[0]}: {' '.join(str(said).split())}")
        return answer

    def _write_site(self, name: str, dataset: DatasetConfig, data_root: Path, runtime_port: int) -> None:
        path = self.hospital_kit(name) / "site.yaml"
        site = yaml.safe_load(path.read_text(encoding="utf-8"))
        site |= {"data_root": str(data_root), "dataset": asdict(dataset)}
        site["server"] |= {"address": self.config.public_address, "runtime_port": runtime_port}
        path.write_text(yaml.safe_dump(site, sort_keys=False, allow_unicode=True), encoding="utf-8")


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _environment() -> dict[str, str]:
    # One thread a process: several hospitals share this machine's cores.
    return {"OMP_NUM_THREADS": "1", **os.environ, "PATH": _search_path()}


def _search_path() -> str:
    # The scripts look for programs by name; those of this Python come first. nginx is in /usr/sbin.
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin"])
