"""Checks of the way to the server, against a door with real TLS."""

import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.config import ConnectionConfig
from client.doctor.certificate import check_certificate
from client.doctor.door import check_door
from client.doctor.ports import check_reach, check_runtime_port
from client.doctor.proxy import check_proxy
from client.doctor.registration import check_registration
from client.doctor.upload import check_upload
from server.provisioning.authority import Authority


def test_a_good_door(door, new_patient, one) -> None:
    patient = new_patient(door)
    for check in (check_reach, check_certificate, check_runtime_port, check_registration, check_upload, check_proxy):
        assert one(check(patient)).level == "ok", one(check(patient))
    assert [(finding.level, finding.subject) for finding in check_door(patient)] == [
        ("ok", "superlink"), ("ok", "clock"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("hosts", "days", "words", "mend"),
    [
        (("localhost",), -1, "expired", "renew=true"),
        (("other.example.org",), 90, "ostname mismatch", "server.address"),
    ],
)
def test_a_certificate_that_does_not_fit(new_door, new_patient, one, hosts, days: int, words: str, mend: str) -> None:
    finding = one(check_certificate(new_patient(new_door(hosts, days))))
    assert finding.level == "fail" and words in finding.text and mend in finding.mend


def test_a_certificate_of_another_address(door, new_patient, one) -> None:
    finding = one(check_certificate(new_patient(door, host="127.0.0.1")))
    assert finding.level == "fail" and "IP address mismatch" in finding.text and "server.address" in finding.mend


def test_a_certificate_that_expires_soon(new_door, new_patient, one) -> None:
    finding = one(check_certificate(new_patient(new_door(days=10))))
    assert finding.level == "warn" and "valid until" in finding.text


def test_another_authority(door, new_patient, one, tmp_path: Path) -> None:
    patient = new_patient(door)
    Authority.open(tmp_path / "other", "other", days=10)
    patient.server.root_certificates = str(tmp_path / "other" / "ca.crt")
    finding = one(check_certificate(patient))
    assert finding.level == "fail" and "inspects TLS" in finding.mend
    patient.server.root_certificates = str(tmp_path / "none.crt")
    assert "No such file" in one(check_certificate(patient)).text
    (tmp_path / "none.crt").write_text("no certificate")
    assert "no PEM certificate" in one(check_certificate(patient)).text


def test_a_port_that_speaks_no_tls(door, new_patient, one) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        patient = new_patient(door)
        patient.site.server = ConnectionConfig(
            **{**vars(patient.server), "address": f"localhost:{server.getsockname()[1]}"}
        )
        assert "speaks no TLS" in one(check_certificate(patient)).text


def test_a_door_that_is_shut(new_patient, one) -> None:
    finding = one(check_reach(new_patient()))
    assert finding.level == "fail" and "refused" in finding.text
    finding = one(check_reach(new_patient(host="superlink.invalid")))
    assert finding.level == "fail" and "no address" in finding.text


@pytest.mark.parametrize(
    ("clock", "level"),
    [(0, "ok"), (-3600, "fail"), (-15, "fail"), (-4, "warn"), (5, "warn"), (60, "warn"), (400, "fail")],
)
def test_clocks(door, new_patient, one, clock: float, level: str) -> None:
    """Flower takes a signature that is up to 5 s from the future and 5 min old."""
    door.clock = clock
    assert one(check_door(new_patient(door)), "clock").level == level


@pytest.mark.parametrize(("status", "words"), [(502, "nobody is behind it"), (404, "answers 404"), (200, "")])
def test_no_superlink_behind_the_door(door, new_patient, one, status: int, words: str) -> None:
    door.status["pull-messages"] = status if status != 200 else 301
    finding = one(check_door(new_patient(door)), "superlink")
    assert finding.level == "fail" and words in finding.text


@pytest.mark.parametrize("status", [401, 415, 301])
def test_a_superlink_without_a_door_is_told(door, new_patient, one, status: int) -> None:
    door.status["list-runs"] = status
    finding = one(check_door(new_patient(door)), "door")
    assert finding.level == "warn" and "execute code" in finding.text


@pytest.mark.parametrize(
    ("status", "words"), [(401, "signature is refused"), (404, "lets no SuperNode in"), (412, "does not take this key")]
)
def test_registrations(door, new_patient, one, status: int, words: str) -> None:
    door.status["activate-node"] = status
    finding = one(check_registration(new_patient(door)))
    assert finding.level == "fail" and words in finding.text


def test_a_supernode_that_runs_is_left_alone(door, new_patient, one) -> None:
    patient = new_patient(door)
    with socket.create_server(("127.0.0.1", patient.server.runtime_port)):
        assert one(check_runtime_port(patient)).level == "warn"
        assert "not looked at" in one(check_registration(patient)).text
    assert door.seen == []


def test_the_upload_crosses_the_line_whole(door, new_patient, one) -> None:
    finding = one(check_upload(new_patient(door, "strategy.upload_codec=int8")))
    assert [size for path, size in door.seen if path.endswith("push-object")] == [5 * 2**20] * 3
    assert "2 MB down and 0 MB up" in finding.text  # 449 k parameters
    door.status["push-object"] = 413
    assert "413" in one(check_upload(new_patient(door))).text


def test_a_line_too_slow_for_the_model_is_told(door, new_patient, one, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.doctor.upload._LONG_ROUND", 0.0)
    assert "upload_codec=int8" in one(check_upload(new_patient(door))).mend


@pytest.fixture
def proxy() -> Iterator[tuple[int, list[str]]]:
    """A proxy that knows CONNECT; its port and what it was asked."""
    asked: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=tunnel, args=(client,), daemon=True).start()

    def tunnel(client: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += client.recv(4096)
        asked.append(request.decode())
        host, _, port = request.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as target, client:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            while True:
                for one in select.select([client, target], [], [])[0]:
                    data = one.recv(65536)
                    if not data:
                        return
                    (target if one is client else client).sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1], asked
    server.close()


def test_a_proxy_on_the_way(door, new_patient, one, proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    port, asked = proxy
    monkeypatch.setenv("HTTPS_PROXY", f"http://north:p%40ss@127.0.0.1:{port}")
    patient = new_patient(door)
    assert f"127.0.0.1:{port} on the way" in one(check_proxy(patient)).text
    assert one(check_reach(patient)).text == f"127.0.0.1:{port} takes connections"
    assert one(check_certificate(patient)).level == "ok" and one(check_upload(patient)).level == "ok"
    assert asked[0].startswith(f"CONNECT localhost:{door.port}")
    assert "Proxy-Authorization: Basic bm9ydGg6cEBzcw==" in asked[0]


def test_a_server_that_needs_no_proxy(door, new_patient, one, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert "not for localhost" in one(check_proxy(new_patient(door))).text
    assert one(check_certificate(new_patient(door))).level == "ok"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY"])
def test_loopback_must_not_go_through_the_proxy(door, new_patient, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = name.lower() if name == "HTTP_PROXY" else name
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    found = list(check_proxy(new_patient(door)))
    assert found[0].level == "fail" and "NO_PROXY=127.0.0.1,localhost" in found[0].mend
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    assert all(finding.level == "ok" for finding in check_proxy(new_patient(door)))
