"""Real processes on loopback: what a run brings to a hospital in its bundle never runs there."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.launcher.programs import write_programs
from client.receipts import Receipt, ReceiptChain
from medvlmoe.configuration import compose
from simulation.local_federation import LocalFederation
from strategies import error_codes, flower_app
from strategies.run_config import RunConfig
from tests.integration.federation_parts import needs_nginx

SITE = "retinamnist"
REFUSAL = [error_codes.CODE_NOT_REVIEWED, "refused by policy: code that the site has not reviewed"]

# A server that means no good: a bundle with its own ClientApp, its own `client` package, and a question to the site.
SERVER = """
import json, os, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
from strategies.messages import build_introduction_request
app = ServerApp()

@app.main()
def main(grid, context):
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    found = {}
    questions = {"query": build_introduction_request(), "train": RecordDict(), "train.mine": RecordDict()}
    for kind, content in questions.items():
        for reply in grid.send_and_receive([Message(content, dst_node_id=nodes[0], message_type=kind)]):
            found[kind] = [reply.error.code, reply.error.reason] if reply.has_error() else "answered"
    Path(os.environ["ANSWERS"]).write_text(json.dumps(found))
"""
MARKER = """
import os, sys
from pathlib import Path
if "clientapp" in sys.argv[0]:  # not in `flwr run`, which looks at the app too
    Path(os.environ["MARKER"]).write_text("the code of the run ran beside the data")
    raise FileNotFoundError("/data/patients/jones^mary.dcm")
"""
PROJECT = """
[project]
name = "medvlmoe"
version = "0.1.0"
description = "x"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "medvlmoe"
[tool.flwr.app.components]
serverapp = "evil_server:app"
clientapp = "client.app:app"
[tool.flwr.app.config]
overrides = ""
"""


class Lab(LocalFederation):
    """A federation with one hospital."""

    def __init__(self, folder: Path, data: Path) -> None:
        dataset = compose(RunConfig, ["model=tiny"]).data.sites[SITE]
        super().__init__(folder, {SITE: dataset}, data)
        self.answers, self.marker = folder / "answers.json", folder / "marker"

    def set_policy(self, **keys: Any) -> None:
        path = self.hospital_kit(SITE) / "site.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"policy": keys}))

    def start_with_flowers_own_launcher(self) -> None:
        kit = self.hospital_kit(SITE)
        server = yaml.safe_load((kit / "site.yaml").read_text())["server"]
        (kit / "plain.sh").write_text(
            f"""#!/bin/sh
. ./environment.sh
while :; do  # Flower may take a minute to notice that the SuperNode of before is gone
    flower-supernode --superlink {server["address"]} --root-certificates ca.crt --port {server["runtime_port"]} \\
        --auth-supernode-private-key supernode.key --node-config 'site-config="site.yaml"'
    sleep 2
done
"""
        )
        (kit / "plain.sh").chmod(0o700)
        self.start(SITE, kit, "plain.sh")
        self.await_hospital()

    def await_hospital(self) -> None:
        deadline = time.monotonic() + 300
        while "SuperNode ID" not in self.log(SITE).read_text():
            assert time.monotonic() < deadline, self.log(SITE).read_text()
            time.sleep(0.5)

    def ask(self, app: Path) -> dict[str, Any]:
        """Run an app: what its server got to hear from the hospital."""
        self.answers.unlink(missing_ok=True)
        started = self.flwr("run", str(app), self.name, capture_output=True)
        assert started.returncode == 0, started.stdout + started.stderr
        deadline = time.monotonic() + 400
        while not self.answers.exists():
            assert time.monotonic() < deadline, self.log("server").read_text()[-3000:]
            time.sleep(0.5)
        return json.loads(self.answers.read_text())

    def receipts(self) -> list[Receipt]:
        return ReceiptChain(self.hospital_kit(SITE) / "site" / "receipts.jsonl").receipts()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, phantom_root: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), phantom_root)
    with pytest.MonkeyPatch.context() as patch, lab:
        patch.setenv("ANSWERS", str(lab.answers))
        patch.setenv("MARKER", str(lab.marker))
        lab.start_server()
        yield lab


@pytest.fixture
def evil_app(tmp_path: Path) -> Path:
    app = tmp_path / "evil"
    (app / "client").mkdir(parents=True)
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "evil_server.py").write_text(SERVER)
    (app / "client" / "__init__.py").write_text(MARKER)
    (app / "client" / "app.py").write_text("app = None")
    return app


@pytest.fixture
def guarded_site(lab: Lab) -> Iterator[None]:
    """As a hospital's kit starts it: ``medvlmoe supernode site.yaml``."""
    lab.marker.unlink(missing_ok=True)
    lab.set_policy()
    lab.start_hospital(SITE)
    lab.await_hospital()
    yield
    lab.stop(SITE)
    lab.log(SITE).unlink()


@pytest.mark.long
@pytest.mark.alone
@needs_nginx
def test_nothing_of_a_run_but_its_messages_reaches_a_hospital(lab: Lab, evil_app: Path, guarded_site: None) -> None:
    answers = lab.ask(evil_app)
    assert answers["query"] == "answered"
    assert answers["train"] == [error_codes.MALFORMED_REQUEST, "malformed request"]
    assert answers["train.mine"] == [error_codes.UNEXPECTED, "unexpected"]
    assert not list((lab.hospital_kit(SITE) / "flower").glob("apps/*")), "the bundle is not even unpacked"
    kinds = [(receipt.kind, receipt.code) for receipt in lab.receipts()]
    assert kinds[-2:] == [("introduction", None), ("error", error_codes.MALFORMED_REQUEST)]

    lab.set_policy(fab_hashes=["installed"])  # read with every message
    answers = lab.ask(evil_app)
    assert answers["query"] == answers["train"] == REFUSAL
    assert not lab.marker.exists()

    lab.set_policy(fab_hashes=[flower_app.fab_hash()], min_patients=2)
    lab.run(["model=tiny", "federation.rounds=1", "federation.sites=1", "training.bootstrap_resamples=10",
             "output.name=reviewed"])  # fmt: skip
    assert (lab.server_kit / "runs" / "reviewed" / "summary.json").exists()
    assert "training" in [receipt.kind for receipt in lab.receipts()]


@pytest.mark.long
@pytest.mark.alone
@needs_nginx
def test_with_flowers_own_launcher_the_code_of_a_run_runs(lab: Lab, evil_app: Path) -> None:
    """The reason for ours: the bundle's code runs beside the data, and what its exception says goes to the server."""
    lab.set_policy()
    lab.start_with_flowers_own_launcher()
    try:
        assert "jones^mary" in str(lab.ask(evil_app)["query"])
        assert lab.marker.exists()

        # A bundle that means well but holds a copy of the package: Flower puts it before the installed one.
        shutil.rmtree(evil_app / "client")
        for package in ("client", "medvlmoe", "strategies", "configs"):
            shutil.copytree(Path(__file__).parents[2] / package, evil_app / package)
        assert lab.ask(evil_app)["query"] == REFUSAL

        lab.set_policy(installed_code_only=False, fab_hashes=["installed"])
        assert lab.ask(evil_app)["query"] == REFUSAL, "a hash that nobody took is no hash that was reviewed"
    finally:
        lab.stop(SITE)


def test_no_other_kind_of_task_has_a_program(tmp_path: Path) -> None:
    programs = write_programs(tmp_path / "programs")
    (programs / "flwr-newtask").write_text("#!/bin/sh\nexit 0\n")
    write_programs(programs)
    assert {path.name for path in programs.iterdir()} == {
        "flower-superexec", "flwr-agentapp", "flwr-clientapp", "flwr-connector", "flwr-model", "flwr-serverapp",
        "flwr-simulation",
    }  # fmt: skip
    for name in ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation"):
        answer = subprocess.run([programs / name, "--token", "x"], capture_output=True, text=True, check=False)
        assert answer.returncode == 1 and "nothing but its own ClientApp" in answer.stderr
    assert os.stat(programs / "flwr-clientapp").st_mode & 0o777 == 0o700
