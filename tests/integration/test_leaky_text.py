"""A hospital whose text tells its labels: refused, or accepted and stamped on everything that comes of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context

from client import resident
from client.app import build_app
from client.config import SiteConfig
from medvlmoe.configuration import compose
from medvlmoe.data import DatasetConfig
from medvlmoe.data.audit import leak_audit
from medvlmoe.data.audit.config import LeakAuditConfig
from medvlmoe.errors import LeakError, QuorumError
from medvlmoe.files import load_tensors, read_json, read_json_lines
from server.app import run_federation
from simulation import InProcessGrid
from strategies.run_config import RunConfig

Command = Callable[..., tuple[int, str, str]]
REPORT = ["+data.sites.north.text=report", "+data.sites.north.allow_label_leak=true"]
NONE = ["+data.sites.north.text=none"]


@pytest.fixture
def leaky(hospital):
    """The age tells the label, and the note too."""
    header, *rows = hospital.table()
    rows = [[*row, str(80 if row[2] == "1" else 20), "an effusion" if row[2] == "1" else "all well"] for row in rows]
    hospital.write_table([[*header, "age", "note"], *rows])
    hospital.change_manifest("labels:", "context: {age: age}\ntext: note\nlabels:")
    return hospital


def summary(tmp_path: Path) -> dict:
    return read_json(tmp_path / "runs" / "run" / "summary.json")


def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "run" / "checkpoints" / "final.safetensors"


@pytest.mark.parametrize("command", [("simulate",), ("simulate", "mode=local"), ("train",)])
def test_a_leak_ends_the_run_before_it_starts_with_one_line(leaky, medvlmoe: Command, tmp_path: Path, command) -> None:
    code, _, error = medvlmoe(*command)
    line = error.strip().splitlines()[-1]
    assert code == 2
    assert "site north: the text alone predicts the labels with a mean AUC of 1.000 [1.000, 1.000]" in line
    assert "threshold 0.65" in line and "text=none" in line and "leak_audit.action=warn" in line
    assert not (tmp_path / "runs" / "run").exists()


def test_a_text_that_tells_nothing_passes_with_its_number(leaky, medvlmoe: Command, tmp_path: Path) -> None:
    code, printed, error = medvlmoe("simulate", *NONE, "compare=[local]")
    assert code == 0, error
    for mode in (summary(tmp_path), summary(tmp_path)["compare"]["local"]):
        assert mode["stamps"] == []
        assert mode["sites"]["north"]["text_only_auc"] == 0.5
        assert mode["sites"]["north"]["text_only_labels_averaged"] == 1
        assert mode["sites"]["north"]["leak_audit"]["verdict"] == "passes"
    assert "text-only AUC" in printed and "LEAKY" not in printed
    assert "| north | 6 | 0.500 [0.500, 0.500] |" in (tmp_path / "runs" / "run" / "table.md").read_text()


@pytest.mark.parametrize("accept", [REPORT, ["data.leak_audit.action=warn"]])
def test_an_accepted_leak_is_stamped_on_everything(leaky, medvlmoe: Command, tmp_path: Path, accept) -> None:
    code, printed, error = medvlmoe("simulate", *accept, "compare=[centralized,local,yardstick]")
    assert code == 0, error
    run = tmp_path / "runs" / "run"
    whole = summary(tmp_path)
    for mode in (whole, whole["compare"]["centralized"], whole["compare"]["local"]):
        assert mode["stamps"] == ["LEAKY"] and mode["sites"]["north"]["stamps"] == ["LEAKY"], mode["mode"]
        assert mode["sites"]["north"]["leak_audit"]["verdict"] == "leaks"
        assert mode["sites"]["north"]["text_only_auc"] == 1.0
    assert whole["compare"]["yardstick"]["stamps"] == [], "it reads no text"
    assert printed.count(" LEAKY") >= 3 and "LEAKY: the model read text" in printed
    assert (run / "table.md").read_text().startswith("**LEAKY**: ")
    assert "<b>LEAKY</b>" in (run / "report.html").read_text()
    for path in (run, run / "compare" / "centralized", run / "compare" / "local"):
        for file in path.glob("checkpoints/**/final.safetensors"):
            assert json.loads(load_tensors(file)[1]["stamps"]) == ["LEAKY"], file
    # a checkpoint bears the stamp to data that do not leak
    code, printed, error = medvlmoe("evaluate", *NONE, f"checkpoint={checkpoint(tmp_path)}")
    assert code == 0, error
    assert " LEAKY" in printed and "LEAKY: the model read text" in printed


def test_a_resumed_run_stays_leaky(leaky, medvlmoe: Command, tmp_path: Path) -> None:
    assert medvlmoe("simulate", *REPORT)[0] == 0
    state = read_json(tmp_path / "runs" / "run" / "checkpoints" / "state.json")
    assert state["stamps"] == ["LEAKY"]
    code, _, error = medvlmoe("simulate", *REPORT, "federation.rounds=2", "resume=true")
    assert code == 0, error
    assert summary(tmp_path)["rounds"] == 2 and summary(tmp_path)["stamps"] == ["LEAKY"]


def test_skipping_the_audit_leaves_no_number(leaky, medvlmoe: Command, tmp_path: Path) -> None:
    code, printed, error = medvlmoe("simulate", "data.leak_audit.action=skip")
    assert code == 0, error
    assert "text_only_auc" not in summary(tmp_path)["sites"]["north"] and "text-only" not in printed


def test_the_threshold_decides(leaky, medvlmoe: Command, tmp_path: Path) -> None:
    code, _, error = medvlmoe("simulate", "data.leak_audit.threshold=1", "data.leak_audit.threshold_label=1")
    assert code == 0, error
    assert summary(tmp_path)["sites"]["north"]["leak_audit"]["verdict"] == "passes"


def test_data_audit_names_label_auc_and_words(leaky, medvlmoe: Command, tmp_path: Path, capsys) -> None:
    from medvlmoe.data.command import data

    site = [f"data.root={tmp_path}", "+data.sites.north={kind:manifest,root:north,manifest:site.yaml}"]
    with pytest.raises(LeakError, match="the text leaks the labels at north") as caught:
        data(["audit", *site])
    assert caught.value.exit_code == 2
    printed = capsys.readouterr().out
    assert "LEAKS: the text alone predicts the labels with a mean AUC of 1.000" in printed
    assert any("Pleural Effusion" in line and "1.000" in line and "[age" in line for line in printed.splitlines())
    with pytest.raises(LeakError):
        data(["audit", *site, *REPORT])
    printed = capsys.readouterr().out
    assert "[Pleural Effusion]" in printed
    assert data(["audit", *site, *NONE]) == 0
    assert "PASSES" in capsys.readouterr().out


def site_config(tmp_path: Path, name: str, **more) -> SiteConfig:
    dataset = DatasetConfig(kind="manifest", root=str(tmp_path / name), manifest="site.yaml", **more.pop("dataset", {}))
    return SiteConfig(name=name, dataset=dataset, folder=str(tmp_path / "at" / name), device="cpu", **more)


def federate(tmp_path: Path, *sites: SiteConfig) -> dict:
    resident.forget()

    def site_of(context: Context) -> SiteConfig:
        return sites[int(context.node_config["partition-id"])]

    overrides = ["model=tiny", "federation.rounds=1", "training.bootstrap_resamples=10", "training.precision=float32",
                 f"output.root={tmp_path}/runs", "output.name=run"]  # fmt: skip
    return run_federation(InProcessGrid(build_app(site_of), node_count=len(sites)), compose(RunConfig, overrides))


def test_in_a_federation_the_site_refuses_and_only_a_code_travels(leaky, tmp_path: Path) -> None:
    with pytest.raises(QuorumError, match=r"\(north: error code 107\)$"):
        federate(tmp_path, site_config(tmp_path, "north"))
    log = (tmp_path / "at" / "north.log").read_text()
    assert "LeakError: the text alone predicts the labels with a mean AUC of 1.000" in log


def test_in_a_federation_one_leaky_site_stamps_all(leaky, new_hospital, tmp_path: Path, monkeypatch) -> None:
    new_hospital("south", seed=1)
    audits = []
    audit_index = leak_audit.audit_index
    monkeypatch.setattr(leak_audit, "audit_index", lambda *args: audits.append(1) or audit_index(*args))
    accepted = site_config(tmp_path, "north", leak_audit=LeakAuditConfig(action="warn"))
    found = federate(tmp_path, accepted, site_config(tmp_path, "south"))
    assert found["stamps"] == ["LEAKY"]
    assert {name: entry["stamps"] for name, entry in found["sites"].items()} == {"north": ["LEAKY"], "south": ["LEAKY"]}
    assert found["sites"]["north"]["text_only_auc"] == 1.0 and found["sites"]["south"]["text_only_auc"] == 0.5
    assert json.loads(load_tensors(checkpoint(tmp_path))[1]["stamps"]) == ["LEAKY"]
    (line,) = read_json_lines(tmp_path / "runs" / "run" / "rounds.jsonl")
    assert line["sites"]["north"]["stamp/LEAKY"] == 1.0 and "stamp/LEAKY" not in line["sites"]["south"]
    told = [name for name in line["sites"]["north"] if name.startswith("text_only")]
    assert told and all(isinstance(line["sites"]["north"][name], float) for name in told)
    # a process that lives for one message asks the site's own file, not the texts again
    assert len(audits) == 2
    resident.forget()
    from client.facts import audit_numbers

    run = next((tmp_path / "at" / "north" / "state").iterdir()).name
    assert audit_numbers(accepted, run)["text_only/test_auc"] == 1.0
    assert len(audits) == 2
    accepted.dataset.text = "none"
    assert audit_numbers(accepted, run)["text_only/test_auc"] == 0.5, "another text is audited anew"


def test_only_numbers_leave_a_site(leaky, tmp_path: Path) -> None:
    """Whatever the audit reads, no word of it is in the reply."""
    from client.facts import audit_numbers, data_facts

    site = site_config(tmp_path, "north", dataset={"text": "report", "allow_label_leak": True})
    facts = data_facts(site, audit_numbers(site, "run"), {})
    assert all(type(value) is float for value in facts.values())
    numbers = {"auc", "auc_low", "auc_high", "labels_averaged", "verdict", "test_auc", "test_auc_low", "test_auc_high",
               "test_labels_averaged"}  # fmt: skip
    assert set(facts) == {"stamp/LEAKY", *(f"text_only/{name}" for name in numbers)}
