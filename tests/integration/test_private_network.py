"""Record-level privacy over a real SuperLink, and a hospital whose ClientApp is killed inside a private round."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.receipts import ReceiptChain
from medvlmoe.configuration import compose
from medvlmoe.files import read_json, read_json_lines
from medvlmoe.privacy.accountant import Accountant
from simulation.local_federation import LocalFederation
from strategies.run_config import RunConfig
from tests.integration.federation_parts import needs_nginx, until

pytestmark = [pytest.mark.long, pytest.mark.alone, needs_nginx]

SITES = ("chestxray14", "retinamnist")
RUN = ["model=tiny", "privacy=record", "privacy.target_epsilon=null", "privacy.noise_multiplier=2.0",
       "training.bootstrap_resamples=10", "training.batch_size=8", "federation.rounds=2", "federation.retries=20",
       "federation.sites=2", "~data.sites.chexpert", "~data.sites.mimic_cxr", "~data.sites.pathmnist"]  # fmt: skip


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, phantom_root: Path) -> Iterator[LocalFederation]:
    sites = compose(RunConfig, RUN).data.sites
    with LocalFederation(tmp_path_factory.mktemp("private"), sites, phantom_root) as federation:
        federation.start_server()
        for name in sites:
            federation.start_hospital(name)
        yield federation


def written(federation: LocalFederation, site: str) -> list[dict]:
    return list(read_json_lines(federation.hospital_kit(site) / "site" / "privacy.jsonl"))


def account(federation: LocalFederation, site: str) -> list[dict]:
    """What was charged for good."""
    return [line for line in written(federation, site) if line["state"] == "released"]


def epsilon(lines: list[dict]) -> float:
    return Accountant("rdp", [m for line in lines for m in Accountant.from_dict(line).spent]).epsilon(1e-5)


def run(federation: LocalFederation, name: str) -> dict[str, dict]:
    with open(federation.folder / f"{name}.log", "w") as log:
        federation.run([*RUN, f"output.name={name}"], output=log)
    return read_json(federation.server_kit / "runs" / name / "summary.json")["privacy"]["hospitals"]


def test_what_the_summary_says_is_what_the_hospitals_have_counted(federation: LocalFederation) -> None:
    hospitals = run(federation, "whole")
    for site in SITES:
        lines = account(federation, site)
        assert [line["round"] for line in lines] == [1, 2]
        assert hospitals[site]["epsilon"] == pytest.approx(epsilon(lines), rel=1e-12)
        receipts = ReceiptChain(federation.hospital_kit(site) / "site" / "receipts.jsonl").receipts()
        left = [receipt for receipt in receipts if "privacy/epsilon" in receipt.metrics]
        assert [receipt.round for receipt in left] == [1, 2]
        assert not any("loss" in name or "auc" in name for receipt in receipts for name in receipt.metrics)


def client_app(federation: LocalFederation, site: str) -> int | None:
    """The process of the hospital's ClientApp, which lives for one message."""
    session = federation._processes[site].pid
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(entry.name)) == session and "clientapp" in (entry / "cmdline").read_text():
                return int(entry.name)
    return None


def test_killed_in_training_the_run_costs_what_an_uninterrupted_one_does(federation: LocalFederation) -> None:
    site, _ = SITES
    whole = run(federation, "uninterrupted")
    before = account(federation, site)
    begun = len(written(federation, site))
    found: dict[str, dict] = {}
    thread = threading.Thread(target=lambda: found.update(run(federation, "killed")), daemon=True)
    thread.start()
    until(lambda: len(written(federation, site)) == begun + 3, "round 2 to be pending", poll=0.002)
    pid = client_app(federation, site)
    assert pid is not None, "the ClientApp ended before it could be killed"
    os.kill(pid, signal.SIGKILL)
    thread.join(900)
    assert found, (federation.folder / "killed.log").read_text()[-2000:]

    states = [(line["round"], line["state"]) for line in written(federation, site)[begun:]]
    assert states == [(1, "pending"), (1, "released"), (2, "pending"), (2, "pending"), (2, "released")]
    lines = account(federation, site)[len(before) :]
    assert [line["round"] for line in lines] == [1, 2]
    assert lines[0]["run"] not in {line["run"] for line in before}
    assert found[site]["epsilon"] == pytest.approx(epsilon([*before, *lines]), rel=1e-12)
    again = [line["spent"] for line in lines]
    assert again == [line["spent"] for line in before[-2:]], "as the run before, which nobody interrupted"
    assert found[site]["releases_again"] == 0
    assert found[site]["epsilon_before"] == pytest.approx(epsilon(before), rel=1e-12) == whole[site]["epsilon"]
    merged = read_json_lines(federation.server_kit / "runs" / "killed" / "rounds.jsonl")
    assert [line["round"] for line in merged] == [1, 2]
    left = ReceiptChain(federation.hospital_kit(site) / "site" / "receipts.jsonl").receipts()
    told = [json.loads(receipt.privacy)["spent"] for receipt in left if receipt.privacy]
    assert told == [line["spent"] for line in account(federation, site)]
