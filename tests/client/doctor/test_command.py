"""The whole examination: exit codes, and that nothing stops it."""

from pathlib import Path

import pytest
import yaml

from client.doctor.command import doctor, examine
from medvlmoe.errors import ConfigError


def written(folder: Path, patient, **keys: object) -> Path:
    server = {name: getattr(patient.server, name) for name in ("address", "root_certificates", "key", "runtime_port")}
    dataset = {"kind": "retinamnist", "root": "medmnist", "size": 64}
    site = {"name": "north", "device": "cpu", "dataset": dataset, "server": server, **keys}
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    return folder / "site.yaml"


def test_a_healthy_site(door, new_patient, tmp_path: Path, phantom_root: Path, capsys) -> None:
    path = written(tmp_path, new_patient(door), data_root=str(phantom_root))
    assert doctor([str(path), "model=tiny"]) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    assert "no check fails" in printed and "\nfail " not in printed
    for subject in ("site.yaml", "policy", "receipts", "software", "data", "images", "labels", "cohort", "device",
                    "memory", "disk", "key", "runtime port", "health", "proxy", "reach", "tls", "superlink", "clock",
                    "registration", "upload"):  # fmt: skip
        assert f"ok    {subject} " in printed, subject


def test_without_network_and_data_everything_else_is_still_told(new_patient, tmp_path: Path, capsys) -> None:
    path = written(tmp_path, new_patient(None), data_root=str(tmp_path))
    assert doctor([str(path), "model=tiny"]) == 2
    printed = capsys.readouterr().out
    for line in ("ok    policy ", "ok    memory ", "ok    disk ", "ok    key ", "fail  data ", "fail  reach ",
                 "warn  not looked at "):  # fmt: skip
        assert line in printed, line
    assert "2 of " in printed


@pytest.mark.parametrize("text", ["name: north\n", "name: [", "policy: {min_patient: 3}\n", None, "- 1\n"])
def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None) -> None:
    if text is not None:
        (tmp_path / "site.yaml").write_text(text)
    assert doctor([str(tmp_path / "site.yaml")]) == 2
    assert "fail  site.yaml" in capsys.readouterr().out


def test_a_site_without_a_server(new_patient) -> None:
    patient = new_patient(None)
    patient.site.server = None
    assert (examine(patient)[-1].level, examine(patient)[-1].subject) == ("fail", "server")


def test_a_check_that_breaks_does_not_stop_the_others(new_patient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("client.doctor.memory._memory", lambda: broken(None))
    found = {finding.subject: finding for finding in examine(new_patient(None))}
    assert found["memory"].level == "fail" and "the check broke: ZeroDivisionError" in found["memory"].text
    assert "disk" in found and "reach" in found


def test_an_unknown_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="modell"):
        doctor([str(tmp_path / "site.yaml"), "modell=tiny"])
