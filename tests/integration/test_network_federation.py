"""A federation over the network, started from its kits with real nginx: who gets in, and who does not."""

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from client.config import read_site_config
from client.supernode import supernode_command
from medvlmoe.configuration import compose
from medvlmoe.files import load_tensors, read_json
from server.provisioning.authority import Authority, read_key
from server.provisioning.hospital_key import public_key_of_pair
from simulation.local_federation import LocalFederation, free_ports
from strategies.run_config import RunConfig
from tests.integration.federation_parts import needs_nginx

pytestmark = [pytest.mark.long, pytest.mark.alone, needs_nginx]

RUN = ["model=tiny", "training.precision=float32", "training.bootstrap_resamples=10", "federation.rounds=2",
       "~data.sites.chexpert", "~data.sites.mimic_cxr", "~data.sites.pathmnist"]  # fmt: skip


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, phantom_root: Path) -> Iterator[LocalFederation]:
    sites = compose(RunConfig, RUN).data.sites
    with LocalFederation(tmp_path_factory.mktemp("federation"), sites, phantom_root) as federation:
        federation.start_server()
        for name in sites:
            federation.start_hospital(name)
        yield federation


def test_registered_hospitals_train_and_end_with_the_bits_of_the_simulation(
    federation: LocalFederation, phantom_root: Path, tmp_path: Path
) -> None:
    with open(tmp_path / "run.log", "w") as log:
        federation.run([*RUN, "federation.sites=2", "output.name=network"], output=log)
    assert "round 2 of 2: 2 sites merged" in (tmp_path / "run.log").read_text()
    network = federation.server_kit / "runs" / "network"
    assert set(read_json(network / "summary.json")["sites"]) == {"chestxray14", "retinamnist"}
    card = (network / "checkpoints" / "model_card.md").read_text()
    assert "the server has no records of patients" in card

    simulated = [*RUN, f"data.root={phantom_root}", f"output.root={tmp_path}", "output.name=simulated"]
    subprocess.run([sys.executable, "-m", "medvlmoe", "simulate", *simulated], check=True, timeout=600)
    ours, theirs = (
        load_tensors(run / "checkpoints" / "final.safetensors")[0] for run in (network, tmp_path / "simulated")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def connect(federation: LocalFederation, folder: Path, **server: object) -> list[str]:
    """A hospital's kit with other settings; the command that connects it."""
    shutil.copytree(federation.hospital_kit("chestxray14"), folder)
    site = yaml.safe_load((folder / "site.yaml").read_text())
    site["server"] |= {"runtime_port": free_ports(1)[0], **server}
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    return supernode_command(read_site_config(folder / "site.yaml"), folder / "site.yaml")


def assert_turned_away(command: list[str], folder: Path, words: str) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with open(folder / "output.log", "w+") as output:  # a pipe would be kept open by its SuperExec a little longer
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        try:
            assert process.wait(timeout=180) != 0
        finally:
            process.kill()
    assert words.lower() in (folder / "output.log").read_text().lower()


def test_a_key_that_is_not_registered(federation: LocalFederation, tmp_path: Path) -> None:
    public_key_of_pair(tmp_path / "other.key")
    command = connect(federation, tmp_path / "kit", key=str(tmp_path / "other.key"))
    assert_turned_away(command, tmp_path / "kit", "Failed to activate SuperNode")


def test_no_key(federation: LocalFederation, tmp_path: Path) -> None:
    command = connect(federation, tmp_path / "kit")
    place = command.index("--auth-supernode-private-key")
    assert_turned_away(command[:place] + command[place + 2 :], tmp_path / "kit", "404")
    refused = (federation.server_kit / "nginx" / "logs" / "refused.log").read_text()
    assert '"POST /v1/fleet/register-node HTTP/1.1" 404' in refused


def test_another_authority(federation: LocalFederation, tmp_path: Path) -> None:
    Authority.open(tmp_path / "other", "other", days=10)
    command = connect(federation, tmp_path / "kit", root_certificates=str(tmp_path / "other" / "ca.crt"))
    assert_turned_away(command, tmp_path / "kit", "certificate verify failed")


@pytest.mark.parametrize("days", [-1, 1])
def test_an_expired_certificate(federation: LocalFederation, tmp_path: Path, days: int) -> None:
    """A second door to the same SuperLink, whose certificate is valid for ``days``: the expired one is refused."""
    shutil.copytree(federation.server_kit, tmp_path / "server", ignore=shutil.ignore_patterns("runs", "flower"))
    nginx = tmp_path / "server" / "nginx"
    authority = Authority.open(Path(federation.config.output) / "authority", federation.name, days=10)
    certificate = authority.issue(read_key(nginx / "server.key"), ["localhost"], "server", days)
    (nginx / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (port,) = free_ports(1)
    configuration = (nginx / "nginx.conf").read_text()
    assert f"127.0.0.1:{federation.port} ssl" in configuration
    (nginx / "nginx.conf").write_text(configuration.replace(str(federation.port), str(port)))
    process_name = f"second door, {days} days"
    federation.start(process_name, tmp_path / "server", "start-nginx.sh")
    try:
        wait_for(port)
        public_key_of_pair(tmp_path / "other.key")
        command = connect(federation, tmp_path / "kit", address=f"localhost:{port}", key=str(tmp_path / "other.key"))
        expected = "certificate has expired" if days < 0 else "Failed to activate SuperNode"
        assert_turned_away(command, tmp_path / "kit", expected)
    finally:
        federation.stop(process_name)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "app"),
        ("log", "1"),
        ("list",),
        ("stop", "1"),
        ("supernode", "list"),
        ("supernode", "register", "hospitals/chestxray14.pub"),
    ],
)
def test_flowers_commands_through_the_public_door(
    federation: LocalFederation, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert federation.flwr("supernode", "list", federation.name).returncode == 0  # on the server itself
    connection = (federation.server_kit / "flower" / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(connection.replace(f":{federation.superlink_port}", f":{federation.port}"))
    answer = subprocess.run(
        [str(Path(sys.executable).parent / "flwr"), *arguments, federation.name], cwd=federation.server_kit,
        env={**os.environ, "FLWR_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "Using SuperLink" in answer.stdout
    assert answer.returncode != 0 and "404" in answer.stdout + answer.stderr


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/docs",
        "/openapi.json",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/control/stream-logs",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/pull-messages/../../control/list-runs",
        "/v1/control/list-runs?/v1/fleet/pull-messages",
        "/v1/control/list-runs%3f/v1/fleet/pull-messages",
        "//v1/control/list-runs",
        "/v1/fleet/pull-messages/",
        "/V1/FLEET/pull-messages",
    ],
)
def test_every_other_path_is_not_there(federation: LocalFederation, method: str, path: str) -> None:
    assert ask(federation, method, path).status in (400, 404)


def test_a_hospitals_path_needs_a_signature_and_post(federation: LocalFederation) -> None:
    answer = ask(federation, "POST", "/v1/fleet/pull-messages", headers={"content-type": "application/protobuf"})
    assert answer.status in (400, 401, 415)
    assert answer.headers["Server"] == "nginx", "no version"
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        assert ask(federation, method, "/v1/fleet/pull-messages").status in (404, 405)


def test_an_object_larger_than_flowers_is_refused(federation: LocalFederation) -> None:
    assert ask(federation, "POST", "/v1/fleet/push-object", body=b"0" * (8 * 2**20 + 1)).status == 413


def test_old_tls_and_no_tls_are_refused(federation: LocalFederation) -> None:
    context = ssl.create_default_context(cafile=federation.server_kit / "ca.crt")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", federation.port)) as plain:
        context.wrap_socket(plain, server_hostname="localhost").close()
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", federation.port)) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")
    connection = http.client.HTTPConnection("127.0.0.1", federation.port, timeout=30)
    connection.request("POST", "/v1/fleet/pull-messages")
    assert connection.getresponse().status == 400


def test_tasks_are_for_the_servers_own_superexec(federation: LocalFederation) -> None:
    """Even on the server machine, the secret is needed to be handed a task."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", federation.superlink_port, context=trust(federation), timeout=30
    )
    connection.request("POST", "/v1/runtime/acquire-task", headers={"content-type": "application/protobuf"})
    assert connection.getresponse().status in (401, 403)


def test_nothing_but_the_door_listens_beyond_loopback(federation: LocalFederation) -> None:
    address = outside_address()
    runtime_ports = [
        yaml.safe_load((federation.hospital_kit(name) / "site.yaml").read_text())["server"]["runtime_port"]
        for name in ("chestxray14", "retinamnist")
    ]
    for port in (federation.superlink_port, *runtime_ports):
        assert opens("127.0.0.1", port)
        assert not opens(address, port)


def test_a_hospital_that_is_struck_off_is_refused_at_once(federation: LocalFederation) -> None:
    """Last of all: it leaves the federation with one hospital."""
    (federation.server_kit / "hospitals" / "retinamnist.pub").unlink()
    register = subprocess.run(
        ["./register.sh"], cwd=federation.server_kit, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert register.returncode == 0, register.stderr
    assert "chestxray14: registered already" in register.stdout and "retinamnist: unregistered" in register.stdout
    wait_for_words(federation.log("retinamnist"), "connecting again in 10 s")


def trust(federation: LocalFederation) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=federation.server_kit / "ca.crt")


def ask(federation: LocalFederation, method: str, path: str, **how: object) -> http.client.HTTPResponse:
    """A request with exactly this path (an ordinary client would tidy it up)."""
    connection = http.client.HTTPSConnection("localhost", federation.port, context=trust(federation), timeout=30)
    connection.request(method, path, **how)  # type: ignore[arg-type]
    return connection.getresponse()


def outside_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return probe.getsockname()[0]


def opens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((address, port)) == 0


def wait_for(port: int) -> None:
    wait_until(lambda: opens("127.0.0.1", port), f"port {port}")


def wait_for_words(path: Path, words: str) -> None:
    wait_until(lambda: words in path.read_text(), f"'{words}' in {path}")


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.5)


def test_the_doctor_finds_nothing_at_a_provisioned_hospital(federation: LocalFederation, tmp_path: Path) -> None:
    """Its SuperNode runs, so that its registration is left alone; a key that nobody registered is told."""
    kit = federation.hospital_kit("chestxray14")
    command = [sys.executable, "-m", "medvlmoe", "doctor", "site.yaml", "model=tiny"]
    answer = subprocess.run(command, cwd=kit, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stdout
    assert "ok    superlink" in answer.stdout and "MB/s up" in answer.stdout and "door" not in answer.stdout
    public_key_of_pair(tmp_path / "other.key")
    connect(federation, tmp_path / "kit", key=str(tmp_path / "other.key"))
    answer = subprocess.run(command, cwd=tmp_path / "kit", capture_output=True, text=True, timeout=300)
    assert answer.returncode == 2 and "does not take this key" in answer.stdout
