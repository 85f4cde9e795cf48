"""``devices=2`` on the command line: two processes on the CPU share every batch of a site."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client.config import read_site_config
from medvlmoe.files import load_tensors, read_json, read_json_lines
from medvlmoe.parallel import local_processes
from tests.integration.test_hospital_sites import succeeded

Command = Callable[..., tuple[int, str, str]]

# Dropout and noise draw other numbers in other processes; without them the results are equal.
CALM = ["model.moe.router_noise=0", "model.text.dropout=0", "training.batch_size=5", "device=cpu"]


@pytest.fixture(scope="module", autouse=True)
def end_of_the_processes():
    yield
    local_processes.close_local_processes()


def final(run: Path) -> dict[str, Tensor]:
    return load_tensors(run / "checkpoints" / "final.safetensors")[0]


def assert_close(one: Path, other: Path) -> None:
    ours, theirs = final(one), final(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-5, rtol=0)


def test_a_federation_with_two_processes_at_the_site_is_that_with_one(
    hospital, medvlmoe: Command, tmp_path: Path
) -> None:
    # The learning rate of a round must not depend on how many rounds there are to be.
    one_round = [*CALM, "federation.select=last", "training.schedule=constant", "training.warmup_epochs=0"]
    two_rounds = [*one_round, "federation.rounds=2"]
    succeeded(medvlmoe("simulate", *two_rounds, "output.name=one"))
    succeeded(medvlmoe("simulate", *one_round, "devices=2", "output.name=two"))
    assert local_processes._current is not None and len(local_processes._current.devices) == 2
    succeeded(medvlmoe("simulate", *two_rounds, "devices=2", "output.name=two", "resume=true"))
    runs = tmp_path / "runs"
    assert_close(runs / "one", runs / "two")
    ours, theirs = (list(read_json_lines(runs / name / "rounds.jsonl")) for name in ("one", "two"))
    assert [line["expert_samples"] for line in ours] == [line["expert_samples"] for line in theirs]
    assert all(sum(line["expert_samples"]) == 2 * line["sites"]["north"]["examples"] for line in theirs)
    for one, other in zip(ours, theirs, strict=True):
        for key in ("train_loss", "validation_loss"):
            assert other["sites"]["north"][key] == pytest.approx(one["sites"]["north"][key], abs=1e-5)
    sites = [read_json(runs / name / "summary.json")["sites"] for name in ("one", "two")]
    assert sites[0]["north"]["auc"] == sites[1]["north"]["auc"]


def test_a_private_federation_with_two_processes_is_that_with_one(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    """With the same secret, which a simulation can repeat: the same records are drawn, the noise is added once."""
    private = [*CALM, "privacy=record", "privacy.repeatable_noise=true", "privacy.physical_batch=2",
               "federation.rounds=2"]  # fmt: skip
    succeeded(medvlmoe("simulate", *private, "output.name=one"))
    succeeded(medvlmoe("simulate", *private, "devices=2", "output.name=two"))
    runs = tmp_path / "runs"
    assert_close(runs / "one", runs / "two")
    ours, theirs = (read_json(runs / name / "summary.json")["privacy"]["hospitals"] for name in ("one", "two"))
    assert ours == theirs


def test_centralized_training_and_evaluation(hospital, medvlmoe: Command, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    succeeded(medvlmoe("train", *CALM, "training.epochs=2", "output.name=one"))
    succeeded(medvlmoe("train", *CALM, "training.epochs=2", "output.name=two", "devices=2"))
    assert_close(runs / "one", runs / "two")
    checkpoint = f"checkpoint={runs / 'one' / 'checkpoints' / 'final.safetensors'}"
    one = succeeded(medvlmoe("evaluate", *CALM, checkpoint))
    assert succeeded(medvlmoe("evaluate", *CALM, checkpoint, "devices=2")) == one


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["devices=0"], "devices=0: use a whole number of at least 1, or all"),
        (["devices=two"], "devices=two: use a whole number of at least 1, or all"),
        (["devices=6"], "training.batch_size=5 has fewer rows than there are devices (6)"),
        (["devices=2", "training.encoder_learning_rate=1e30", "federation.rounds=2"], "not finite"),
    ],
)
def test_mistakes(hospital, medvlmoe: Command, arguments: list[str], words: str) -> None:
    code, _, error = medvlmoe("simulate", *CALM, "federation.retries=0", *arguments)
    assert code == 2 and words in error.strip().splitlines()[-1] and "Traceback" not in error


def test_a_hospital_says_how_many_devices_it_has(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    for devices in (2, "all"):
        file.write_text(f"name: north\ndataset: {{kind: manifest, root: images}}\ndevices: {devices}\n")
        assert read_site_config(file).devices == devices


def helper_of(pid: int) -> int | None:
    """The process that the process of that number has started for its second device."""
    for folder in Path("/proc").iterdir():
        try:
            is_child = folder.name.isdigit() and f"\nPPid:\t{pid}\n" in (folder / "status").read_text()
            if is_child and "spawn_main" in (folder / "cmdline").read_text():
                return int(folder.name)
        except OSError:  # it ended meanwhile
            continue
    return None


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("target", "number", "code", "words"),
    [
        ("helper", signal.SIGKILL, 2, "local process 1 (cpu) was killed by SIGKILL; if memory ran out"),
        ("terminal", signal.SIGINT, 130, "medvlmoe train: interrupted"),
        ("command", signal.SIGTERM, -signal.SIGTERM, ""),
        ("command", signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
@pytest.mark.parametrize("moment", ["start", "work"])
def test_whatever_is_killed_nothing_hangs_and_nothing_stays(
    hospital, tmp_path: Path, target: str, number: int, code: int, words: str, moment: str
) -> None:
    runs = tmp_path / "runs"
    command = subprocess.Popen(
        [sys.executable, "-m", "medvlmoe", "train", "model=tiny", "data=none", f"data.root={tmp_path}",
         "+data.sites.north={kind:manifest,root:north,manifest:site.yaml}", f"output.root={runs}", "output.name=run",
         "training.epochs=100000", "training.patience=0", *CALM, "devices=2"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell starts what it runs in the background with this signal ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while (helper := helper_of(command.pid)) is None or (
        moment == "work" and not (runs / "run" / "checkpoints" / "last.safetensors").exists()
    ):
        assert command.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if target == "terminal":
        os.killpg(command.pid, number)
    else:
        os.kill(helper if target == "helper" else command.pid, number)
    _, error = command.communicate(timeout=100)
    assert command.returncode == code
    assert words in "".join(error.strip().splitlines()[-1:])
    if (target, moment) != ("command", "start"):  # Python's own words of a helper that was just being started
        assert "Traceback" not in error
    while Path(f"/proc/{helper}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
