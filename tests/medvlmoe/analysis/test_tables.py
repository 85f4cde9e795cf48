import json
import math
from pathlib import Path

import pytest

from medvlmoe.analysis.comparison import markdown, rows_of
from medvlmoe.analysis.report import write_report
from medvlmoe.analysis.table import rows_over_seeds, t_interval, table
from medvlmoe.command_line import run as command
from medvlmoe.errors import CheckpointError, ConfigError


def summary(seed: int, federated: float | None, local: float) -> dict:
    def entry(mode: str, auc: float | None) -> dict:
        site = {"n": 12, "auc": auc, "auc_ci": [0.1, 0.9] if auc is not None else None}
        return {"mode": mode, "seed": seed, "sites": {"north": site}, "mean_auc": auc}

    return {**entry("federated", federated), "compare": {"local": entry("local", local)}}


def test_one_seed_shows_every_mode_with_its_interval() -> None:
    whole = summary(0, 0.71, 0.64)
    rows = rows_of({"federated": whole, "local": whole["compare"]["local"]})
    assert rows[0] == ["site", "test images", "federated AUC", "local AUC"]
    assert rows[1] == ["north", "12", "0.710 [0.100, 0.900]", "0.640 [0.100, 0.900]"]
    assert rows[-1] == ["mean of sites", "", "0.710", "0.640"]
    assert markdown(rows).splitlines()[1] == "|---|---:|---:|---:|"


def test_a_mean_over_part_of_the_labels_has_a_row_below_its_site() -> None:
    runs = [summary(seed, 0.7, 0.6) for seed in (0, 1)]
    for run, auc in zip(runs, (0.8, 0.9), strict=True):
        run["sites"]["north"]["subset_auc"] = {"chexpert competition 5": {"auc": auc, "labels_averaged": 5}}
    rows = rows_of({"federated": runs[0], "local": runs[0]["compare"]["local"]})
    assert rows[2] == ["north: chexpert competition 5", "", "0.800 (5 labels)", "-"]
    assert len(rows) == 4
    over_seeds = rows_over_seeds(runs)
    assert over_seeds[2][0] == "north: chexpert competition 5"
    assert over_seeds[2][2].startswith("0.850 ± ")
    assert over_seeds[2][3] == "undefined"


def test_an_undefined_auc_is_said() -> None:
    assert rows_of({"federated": summary(0, None, 0.5)})[1][2] == "undefined"
    assert rows_over_seeds([summary(0, None, 0.5), summary(1, 0.5, 0.5)])[1][2] == "undefined"


def test_the_t_interval_of_three_values() -> None:
    # 4.3027 s / sqrt(3): the reading of the paper's "95 % CI over 3 seeds".
    mean, half_width = t_interval([0.70, 0.72, 0.74])
    assert mean == pytest.approx(0.72)
    assert half_width == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-5)
    assert t_interval([0.7])[1] == math.inf


def test_seeds_become_mean_and_interval() -> None:
    rows = rows_over_seeds([summary(0, 0.70, 0.6), summary(1, 0.72, 0.6), summary(2, 0.74, 0.6)])
    assert rows[1] == ["north", "12", "0.720 ± 0.050", "0.600 ± 0.000"]


def test_runs_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ConfigError, match="same seed"):
        rows_over_seeds([summary(0, 0.7, 0.6), summary(0, 0.7, 0.6)])
    other = summary(1, 0.7, 0.6)
    del other["compare"]
    with pytest.raises(ConfigError, match="modes"):
        rows_over_seeds([summary(0, 0.7, 0.6), other])


def with_text(run: dict, auc: float, verdict: str, stamps: list[str]) -> dict:
    for mode in (run, run["compare"]["local"]):
        mode["stamps"] = stamps
        mode["sites"]["north"] |= {
            "text_only_auc": auc, "leak_audit": {"verdict": verdict, "auc": auc}, "stamps": stamps
        }  # fmt: skip
    return run


def test_the_auc_of_the_text_alone_stands_beside_every_result() -> None:
    whole = with_text(summary(0, 0.71, 0.64), 0.58, "passes", [])
    rows = rows_of({"federated": whole, "local": whole["compare"]["local"]})
    assert [row[:4] for row in rows] == [
        ["site", "test images", "text-only AUC", "federated AUC"],
        ["north", "12", "0.580", "0.710 [0.100, 0.900]"],
        ["mean of sites", "", "", "0.710"],
    ]
    over_seeds = rows_over_seeds([whole, with_text(summary(1, 0.73, 0.64), 0.58, "passes", [])])
    assert [row[2] for row in over_seeds] == ["text-only AUC", "0.580", ""]
    assert {len(row) for row in [*rows, *over_seeds]} == {5}


def test_a_leaky_number_says_so_in_its_cell_and_a_table_above_itself() -> None:
    whole = with_text(summary(0, 0.98, 0.97), 0.95, "leaks", ["LEAKY", "SUBSET"])
    whole["compare"]["yardstick"] = summary(0, 0.6, 0.6)["compare"]["local"]
    rows = rows_of({"federated": whole, **whole["compare"]})
    assert rows[1][2:] == ["0.950 (leaks)", "0.980 [0.100, 0.900] LEAKY", "0.970 [0.100, 0.900] LEAKY",
                           "0.600 [0.100, 0.900]"]  # fmt: skip
    assert rows[-1][-3:] == ["0.980 LEAKY", "0.970 LEAKY", "0.600"], "the mean of leaky numbers leaks too"
    first, second, *_ = markdown(rows, ["LEAKY", "SUBSET"]).splitlines()
    assert first.startswith("**LEAKY**: the model read text") and markdown(rows, ["SUBSET"]).startswith("**SUBSET**")
    assert second == ""
    again = with_text(summary(1, 0.98, 0.97), 0.95, "leaks", ["LEAKY"])
    again["compare"]["yardstick"] = summary(1, 0.6, 0.6)["compare"]["local"]
    assert [cell.endswith(" LEAKY") for cell in rows_over_seeds([whole, again])[1]] == [False] * 3 + [True] * 2 + [
        False
    ]


def test_medvlmoe_table_prints_the_stamps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        run = with_text(summary(seed, 0.7, 0.6), 0.95, "leaks", ["LEAKY"] if seed else [])
        (tmp_path / str(seed) / "summary.json").write_text(json.dumps(run))
    table([str(tmp_path / "0"), str(tmp_path / "1")])
    printed = capsys.readouterr().out
    assert printed.count("LEAKY: the model read text") == 1 and "**LEAKY**: the model read text" in printed
    assert "0.700 ± 0.000 LEAKY" in printed


@pytest.mark.parametrize("content", [None, "[]", "{}", "{"])
@pytest.mark.parametrize("name", ["table", "report", "card"])
def test_a_folder_that_is_no_finished_run_is_told_in_one_line(
    name: str, content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    assert command([name, str(tmp_path) if name == "table" else f"run={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert "summary.json" in err and len(err.splitlines()) == 1


def test_a_report_needs_the_configuration_of_its_run(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"mode": "local", "sites": {}, "mean_auc": null}')
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        write_report(tmp_path)


def test_a_bar_in_a_name_ends_no_cell() -> None:
    table_of_one = markdown([["site", "AUC"], ["north | south", "0.7"]])
    assert "| north \\| south | 0.7 |" in table_of_one
