import json
from pathlib import Path

import pytest

from medvlmoe.analysis.report import write_report
from medvlmoe.errors import CheckpointError


def run_folder(path: Path, name: str = "north") -> Path:
    site = {"n": 12, "auc": 0.71, "auc_ci": [0.6, 0.8]}
    summary = {"mode": "federated", "sites": {name: site}, "mean_auc": 0.71, "seconds": 3}
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "config.yaml").write_text("seed: 0\n")
    rounds = [
        {"round": n, "seconds": 1.0, "validation_auc_before": 0.5 + n / 100, "bytes_by_group": {"vision": 2_000_000},
         "sites": {name: {"outcome": "merged"}, "late": {"outcome": "no reply"}}}
        for n in (1, 2, 3)
    ]  # fmt: skip
    ledger = [
        {"round": n, "expert": k, "samples": 10.0 * k, "moved_in": n if k else 0,
         "sites": {name: {"samples": 7.5 * k}, "south": {"samples": 2.5 * k}}}
        for n in (1, 2, 3) for k in (0, 1)
    ]  # fmt: skip
    for file, lines in (("rounds.jsonl", rounds), ("ledger.jsonl", ledger)):
        (path / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_report_shows_what_the_files_say(tmp_path: Path) -> None:
    page = write_report(run_folder(tmp_path)).read_text()
    assert "0.710" in page and "0.600 – 0.800" in page
    assert "75 %" in page and "25 %" in page, "shares of expert 1"
    assert "never" in page, "expert 0 got no samples"
    assert "late (no reply)" in page
    assert page.count("<polyline") == 1


def test_names_are_escaped(tmp_path: Path) -> None:
    page = write_report(run_folder(tmp_path, name="<script>alert(1)</script>")).read_text()
    assert "<script>" not in page


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not finished"):
        write_report(tmp_path)


def test_stamps_and_the_text_alone_are_on_the_page(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    assert 'class="stamp"' not in write_report(folder).read_text()
    summary = json.loads((folder / "summary.json").read_text())
    summary["stamps"] = ["LEAKY", "PHANTOM"]
    summary["sites"]["north"] |= {
        "stamps": ["LEAKY", "PHANTOM"], "text_only_auc": 0.934, "leak_audit": {"verdict": "leaks"}
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    page = write_report(folder).read_text()
    assert page.count('<p class="stamp">') == 2
    assert "<b>LEAKY</b>: the model read text" in page and "0.710 LEAKY" in page and "LEAKY</b></td>" in page
    assert "<th>text only</th>" in page and "0.934 (leaks)" in page
