"""What the command says before it runs anything."""

from pathlib import Path

import pytest

from medvlmoe.command_line import run
from medvlmoe.errors import EXIT_USER_ERROR


def reproduce(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["reproduce", *arguments])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_help_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("--help",)):
        code, out, _ = reproduce(capsys, *arguments)
        assert code == 0 and "table1|table2|figure2|figure3|all" in out
        assert all(
            f"\n{key}:" in out for key in ("seeds", "models", "datasets", "backbone", "jobs", "plan", "training")
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table9"], "'table9' is not in the paper's results"),
        (["preset=tiny"], "say what to reproduce"),
        (["table1", "preset=huge"], "no preset 'huge'; there are paper, small, tiny"),
        (["table1", "sedes=3"], "unknown configuration key 'sedes'; did you mean 'seeds'"),
        (["table1", "data=benchmarks", "data.root=/nowhere"], "no such folder"),
        (["table1", "data=real"], "no such folder"),
        (["table1", "backbone=theirs"], "backbone=theirs: use one of shared, published, both"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = reproduce(capsys, *arguments, f"output.root={tmp_path}/runs")
    assert code == EXIT_USER_ERROR and words in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists(), "nothing is begun"


def test_the_plan_of_everything_at_the_papers_protocol(
    tmp_path: Path, phantom_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = reproduce(capsys, "all", "preset=paper", f"data.root={phantom_root}", f"output.root={tmp_path}",
                             "plan=true")  # fmt: skip
    # 5 x (1 + 5 + 5) for Table 1, 17 - 2 variants more on ChestX-ray14, and 2 joint runs; for each of 3 seeds.
    assert code == 0 and "216 runs, 0 of them finished" in out
    assert "chestxray14 gloria seed 2" in out and "chestxray14 gloria_shared seed 2" in out
    assert "balance_0.01 seed 0 (the same as medvlmoe)" in out


def test_phantoms_are_drawn_where_no_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = reproduce(
        capsys, "table1", "preset=tiny", "seeds=1", "phantom_images=40", f"output.root={tmp_path}", "plan=true"
    )
    assert code == 0 and "30 runs" in out
    assert (tmp_path / "phantom-40" / "PHANTOM.json").exists()


def test_a_folder_that_cannot_be_written_is_told_once(
    tmp_path: Path, phantom_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = reproduce(
        capsys, "table1", "preset=tiny", "seeds=1", f"data.root={phantom_root}", f"output.root={tmp_path}/file/runs"
    )
    assert code == EXIT_USER_ERROR and "choose another output.root" in err and len(err.strip().splitlines()) == 1
