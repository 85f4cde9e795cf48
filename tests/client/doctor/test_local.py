"""Checks of this machine: key, data, labels, policy, receipts, room."""

import subprocess
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict
from flwr.supercore.grpc_health import run_health_server_grpc_no_tls

from client.account import budget_of
from client.doctor.command import doctor
from client.doctor.data import check_data
from client.doctor.device import check_device
from client.doctor.disk import check_disk
from client.doctor.health import check_health
from client.doctor.key import check_key
from client.doctor.launcher import check_launcher
from client.doctor.memory import check_memory
from client.doctor.patient import Patient
from client.doctor.policy import check_policy, check_privacy, check_receipts
from client.policy import SitePolicy
from client.receipts import ReceiptChain
from client.receipts.receipt import describe
from medvlmoe.data.config import DatasetConfig
from medvlmoe.privacy.mechanism import Mechanism
from simulation.local_federation import free_ports

RETINA = DatasetConfig(kind="retinamnist", root="medmnist", size=64)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def patient(new_patient, phantom_root: Path) -> Patient:
    return new_patient(None, dataset=RETINA, data_root=str(phantom_root))


def test_a_good_key(patient, one) -> None:
    assert one(check_key(patient)).level == "ok"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (None, "No such file"),
        (["-t", "ecdsa", "-b", "256", "-N", ""], "no P-384 key"),
        (["-t", "ed25519", "-N", ""], "no P-384 key"),
        (["-t", "ecdsa", "-b", "384", "-N", "a passphrase"], "without passphrase"),
    ],
)
def test_a_key_that_will_not_do(patient, one, arguments: list[str] | None, words: str) -> None:
    path = Path(patient.server.key)
    path.unlink()
    if arguments is not None:
        subprocess.run(["ssh-keygen", "-q", *arguments, "-f", str(path)], check=True)
    finding = one(check_key(patient))
    assert finding.level == "fail" and words in finding.text


def test_a_key_that_others_may_read(patient, one) -> None:
    Path(patient.server.key).chmod(0o644)
    finding = one(check_key(patient))
    assert finding.level == "fail" and finding.mend == f"chmod 600 {patient.server.key}"


def test_good_data(patient) -> None:
    found = {finding.subject: finding for finding in check_data(patient)}
    assert {finding.level for finding in found.values()} == {"ok"}
    assert set(found) == {"data", "images", "labels", "cohort"} and "32 of 60 opened" in found["images"].text


@pytest.mark.parametrize("key", ["min_examples", "min_patients"])
def test_a_cohort_that_its_own_policy_refuses(patient, one, key: str) -> None:
    patient.site.policy = SitePolicy(**{key: 1000})
    assert one(check_data(patient), "cohort").level == "fail"


def test_labels_without_both_classes(patient, one) -> None:
    patient.index.labels_NY[:, 0] = 0
    finding = one(check_data(patient), "labels")
    assert finding.level == "warn" and patient.index.label_space.labels[0] in finding.text
    patient.index.labels_NY[:] = np.nan
    assert one(check_data(patient), "labels").level == "fail"


def test_a_split_that_is_empty(patient, one) -> None:
    patient.index.splits[:] = "train"
    finding = one(check_data(patient))
    assert finding.level == "fail" and "validation" in finding.mend


def test_images_that_cannot_be_opened(new_patient, one, tmp_path: Path) -> None:
    from tests.integration.conftest import Hospital

    hospital = Hospital(tmp_path / "north")
    hospital.image(3).write_bytes(b"no image")
    dataset = DatasetConfig(kind="manifest", root="north", manifest="site.yaml")
    found = one(check_data(new_patient(None, dataset=dataset, data_root=str(tmp_path))), "images")
    assert found.level == "fail" and "1 of 24" in found.text and "on_bad_image" in found.mend
    dataset.on_bad_image = "skip"
    assert one(check_data(new_patient(None, dataset=dataset, data_root=str(tmp_path))), "images").level == "warn"


def test_the_policy_that_is_in_force_is_shown(patient, one) -> None:
    assert "defaults" in one(check_policy(patient)).text
    patient.site.policy = SitePolicy(min_patients=50, installed_code_only=False, differential_privacy_required=True)
    found = list(check_policy(patient))
    assert "min_patients=50" in found[0].text
    assert [finding.level for finding in found] == ["ok", "warn"]


def test_spent_privacy_is_shown(patient, one) -> None:
    def spend(mechanism: Mechanism) -> None:
        budget = budget_of(patient.site)
        with budget.alone():
            attempt = budget.begin("trial", 1, [mechanism])
        attempt.release()

    assert list(check_privacy(patient)) == []
    patient.site.policy = SitePolicy(differential_privacy_required=True, max_epsilon=5.0)
    assert "epsilon 0 of 5" in one(check_privacy(patient)).text
    spend(Mechanism(noise_multiplier=1.0, sampling_rate=0.1, steps=10))
    assert one(check_privacy(patient)).level == "ok" and "epsilon 0 " not in one(check_privacy(patient)).text
    spend(Mechanism(noise_multiplier=0.5, steps=10))
    assert one(check_privacy(patient)).level == "fail"


def test_an_account_that_is_not_that_of_the_receipts_is_told(patient, one) -> None:
    content = RecordDict({"metrics": MetricRecord({"privacy/epsilon": 1.0})})
    entry = describe("training", content, "1", norms={}, run="trial", server_round=1, codec="float32")
    ReceiptChain(patient.site.receipts_file).append(entry)
    finding = one(check_privacy(patient))
    assert finding.level == "fail" and "lacks 1 of 1 private rounds" in finding.text


def test_hours_in_which_no_round_may_begin(patient) -> None:
    from datetime import datetime, timedelta

    later = datetime.now() + timedelta(hours=2)
    patient.site.policy = SitePolicy(hours=[f"{later:%a %H:00}-{later:%H:01}"])
    assert [finding.level for finding in check_policy(patient)] == ["ok", "warn"]


def test_receipts(patient, one) -> None:
    assert one(check_receipts(patient)).level == "ok"
    patient.site.receipts_file.parent.mkdir(parents=True)
    patient.site.receipts_file.write_text("{}\n")
    assert one(check_receipts(patient)).level == "fail"


@pytest.mark.parametrize(("free", "level"), [(10**12, "ok"), (1.1, "warn"), (0.5, "fail")])
def test_disk(patient, one, monkeypatch: pytest.MonkeyPatch, free: float, level: str) -> None:
    """448,896 parameters with two moments for three rounds and in two replies, and sixty images of 3 x 64 x 64."""
    wanted = 448_896 * 4 * (2 * 3 + 2) + 60 * 3 * 64 * 64
    size = patient.model_size.exchanged
    assert abs(size - 448_896) < 0.01 * size
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, free if free > 10 else int(free * wanted)))
    assert one(check_disk(patient)).level == level


def test_a_site_that_keeps_no_reply_needs_no_room_for_it(
    new_patient, one, monkeypatch: pytest.MonkeyPatch, phantom_root: Path
) -> None:
    without = 448_896 * 4 * 2 * 3 + 60 * 3 * 64 * 64
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, int(1.22 * without)))
    sites = [new_patient(None, dataset=RETINA, data_root=str(phantom_root), keep_reply=keep) for keep in (True, False)]
    assert [one(check_disk(site)).level for site in sites] == ["fail", "ok"]


def test_int8_keeps_a_third_number_a_parameter(new_patient, one, phantom_root: Path) -> None:
    sites = [
        new_patient(None, *more, dataset=RETINA, data_root=str(phantom_root))
        for more in ((), ("strategy.upload_codec=int8",))
    ]
    wanted = [float(one(check_disk(site)).text.partition("about ")[2].split()[0]) for site in sites]
    assert wanted[1] > 1.1 * wanted[0]


@pytest.mark.parametrize(("total", "available", "level"), [(100, 100, "ok"), (100, 1, "warn"), (1, 1, "fail")])
def test_memory(patient, one, monkeypatch: pytest.MonkeyPatch, total: int, available: int, level: str) -> None:
    monkeypatch.setattr("client.doctor.memory._memory", lambda: (total * 10**9, available * 10**9))
    assert one(check_memory(patient)).level == level


def test_a_large_model_wants_more_memory(new_patient, one) -> None:
    small, paper = (one(check_memory(new_patient(None, f"model={name}"))).text for name in ("tiny", "paper"))
    wanted = [float(text.partition("about ")[2].split()[0]) for text in (small, paper)]
    assert wanted[0] < 2 and 15 < wanted[1] < 30


@pytest.mark.parametrize(("name", "level"), [("cpu", "ok"), ("cuda:99", "fail"), ("tpu", "fail")])
def test_devices(patient, one, name: str, level: str) -> None:
    patient.site.device = name
    assert one(check_device(patient)).level == level


def test_software(patient, one, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(check_launcher(patient)).level == "ok"
    monkeypatch.setattr("client.launcher.clientapp._REPLACED", ("a_function_of_another_flower",))
    assert one(check_launcher(patient)).level == "fail"


def test_health(patient, one, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not set" in one(check_health(patient)).text
    (port,) = free_ports(1)
    patient.server.health_address = address = f"127.0.0.1:{port}"
    assert one(check_health(patient)).level == "warn" and doctor([address]) == 2
    server = run_health_server_grpc_no_tls(address)
    try:
        assert one(check_health(patient)).level == "ok" and doctor([address]) == 0
    finally:
        server.stop(None)
