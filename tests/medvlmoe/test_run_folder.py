import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medvlmoe.errors import ConfigError
from medvlmoe.files import read_json_lines
from medvlmoe.run_folder import OutputConfig, RunFolder


def open_folder(root: Path, *, resume: bool = False, overwrite: bool = False, **config: object) -> RunFolder:
    output = OutputConfig(root=str(root), name="run", overwrite=overwrite)
    return RunFolder.open(output, "unused", {"seed": 0, **config}, resume=resume)


def test_a_resumed_run_keeps_its_identity_and_a_new_one_gets_another(tmp_path: Path) -> None:
    first = open_folder(tmp_path)
    assert open_folder(tmp_path, resume=True).identity == first.identity
    assert open_folder(tmp_path, overwrite=True).identity != first.identity


def test_resuming_with_another_configuration_is_refused(tmp_path: Path) -> None:
    open_folder(tmp_path, federation={"rounds": 3})
    with pytest.raises(ConfigError, match="seed=0, not 1"):
        open_folder(tmp_path, resume=True, seed=1, federation={"rounds": 3})
    open_folder(tmp_path, resume=True, federation={"rounds": 9})


def test_a_folder_that_is_no_run_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="not a run folder"):
            open_folder(tmp_path, overwrite=overwrite)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "precious"


def test_rounds_after_the_state_are_forgotten(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    for number in (1, 2, 3):
        folder.record_round({"round": number}, [{"round": number, "expert": 0}])
    folder.forget_rounds_after(2)
    assert folder.rounds() == [{"round": 1}, {"round": 2}]
    assert len(list(read_json_lines(folder.path / "ledger.jsonl"))) == 2


@pytest.mark.parametrize("name", ["../up", "/root", "", "a b", ".hidden"])
def test_names_that_leave_the_output_root_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"output\.name"):
        OutputConfig(name=name)


HOLDS = """
import sys, time
from medvlmoe.run_folder import OutputConfig, RunFolder
folder = RunFolder.open(OutputConfig(root=sys.argv[1], name="run"), "unused", {"seed": 0}, resume=True)
print("open", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}])
def test_a_run_that_another_process_writes_is_left_alone_until_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, bool]
) -> None:
    monkeypatch.setattr("medvlmoe.run_folder._LOCK_SECONDS", 0.1)
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        before = (tmp_path / "run" / "run.json").read_text()
        with pytest.raises(ConfigError, match="another process is writing"):
            open_folder(tmp_path, **how)
        assert (tmp_path / "run" / "run.json").read_text() == before
        other.send_signal(signal.SIGKILL)
        other.wait()
        open_folder(tmp_path, **how)
