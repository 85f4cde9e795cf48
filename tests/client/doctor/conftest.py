"""A public door on loopback, with real TLS, that answers as a test wants."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from flwr.proto.fleet_pb2 import ActivateNodeResponse, DeactivateNodeResponse

from client.config import ConnectionConfig, SiteConfig
from client.doctor.finding import Finding
from client.doctor.patient import Patient
from medvlmoe.configuration import compose
from medvlmoe.data.config import DatasetConfig
from server.provisioning.authority import Authority, server_certificate
from server.provisioning.hospital_key import public_key_of_pair
from simulation.local_federation import free_ports
from strategies.run_config import RunConfig


@dataclass
class Door:
    """What the door answers.

    Attributes:
        folder: has ``ca.crt``, ``server.crt`` and ``server.key``.
        status: by last part of the path.
        clock: seconds that the ``Date`` header is ahead.
        seen: paths that were asked for, and how many bytes came along.
    """

    folder: Path
    port: int = 0
    clock: float = 0.0
    status: dict[str, int] = field(
        default_factory=lambda: {
            "pull-messages": 401, "push-object": 401, "list-runs": 404, "activate-node": 200, "deactivate-node": 200,
        }
    )  # fmt: skip
    seen: list[tuple[str, int]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    door: Door

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length)
        self.door.seen.append((self.path, len(body)))
        name = self.path.rpartition("/")[2]
        status = self.door.status.get(name, 404)
        answer = b""
        if status == 200:
            answer = {
                "activate-node": ActivateNodeResponse(node_id=5).SerializeToString(),
                "deactivate-node": DeactivateNodeResponse().SerializeToString(),
            }[name]
        self.send_response_only(status)
        self.send_header("Date", formatdate(time.time() + self.door.clock, usegmt=True))
        self.send_header("content-type", "application/protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def new_door(tmp_path: Path) -> Iterator[Callable[..., Door]]:
    servers = []

    def make(hosts: tuple[str, ...] = ("localhost",), days: int = 90) -> Door:
        folder = tmp_path / "door"
        authority = Authority.open(folder, "lab", days=365)
        server_certificate(authority, folder, "server", hosts, days, renew=True)
        door = Door(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        handler = type("Handler", (_Handler,), {"door": door})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.daemon_threads = True
        door.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        return door

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def door(new_door: Callable[..., Door]) -> Door:
    return new_door()


@pytest.fixture
def new_patient(tmp_path: Path) -> Callable[..., Patient]:
    """A site that knocks at a door; ``None``: at a port where nobody listens."""

    def make(door: Door | None = None, *overrides: str, host: str = "localhost", **site: object) -> Patient:
        public_key_of_pair(tmp_path / "north.key")
        (port, runtime_port) = free_ports(2)
        folder = tmp_path / "none" if door is None else door.folder
        server = ConnectionConfig(
            address=f"{host}:{port if door is None else door.port}", root_certificates=str(folder / "ca.crt"),
            key=str(tmp_path / "north.key"), runtime_port=runtime_port,
        )  # fmt: skip
        dataset = DatasetConfig(kind="manifest", root="nowhere")
        values = {"name": "north", "dataset": dataset, "folder": str(tmp_path / "site"), "server": server, **site}
        return Patient(SiteConfig(**values), compose(RunConfig, ["model=tiny", *overrides]))  # type: ignore[arg-type]

    return make


def levels(findings: object) -> list[tuple[str, str]]:
    return [(finding.level, finding.subject) for finding in findings]  # type: ignore[attr-defined]


@pytest.fixture
def one() -> Callable[..., Finding]:
    """The single finding of a check."""

    def only(findings: object, subject: str | None = None) -> Finding:
        found = [f for f in findings if subject in (None, f.subject)]  # type: ignore[attr-defined]
        assert len(found) == 1, found
        return found[0]

    return only
