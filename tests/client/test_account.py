"""The account through every order of a crash: a round costs what has left, neither less nor more."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.account import PrivacyBudget
from medvlmoe.errors import CheckpointError
from medvlmoe.files import read_json_lines
from medvlmoe.privacy.mechanism import Mechanism

STEPS = Mechanism(noise_multiplier=1.0, sampling_rate=0.05, steps=20)
OTHER = Mechanism(noise_multiplier=2.0, sampling_rate=0.1, steps=7)

# A hospital's process in the middle of a private round.
TRAINING = """
import sys, time
from pathlib import Path
from client.account import PrivacyBudget
from medvlmoe.privacy.mechanism import Mechanism
budget = PrivacyBudget(Path(sys.argv[1]))
with budget.alone():
    attempt = budget.begin("killed", 3, [Mechanism(noise_multiplier=1.0, sampling_rate=0.05, steps=20)])
if sys.argv[2] == "release":
    attempt.release()
print("there", flush=True)
time.sleep(600)
"""


@pytest.fixture
def budget(tmp_path: Path) -> PrivacyBudget:
    return PrivacyBudget(tmp_path / "site" / "privacy.jsonl")


def begin(budget: PrivacyBudget, run: str = "run", server_round: int = 1, mechanism: Mechanism = STEPS):
    with budget.alone():
        return budget.begin(run, server_round, [mechanism])


def process_of(budget: PrivacyBudget, what: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", TRAINING, str(budget.file), what], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"there\n"
    return process


def end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    process.send_signal(how)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def beside(budget: PrivacyBudget) -> set[str]:
    return {file.name for file in budget.file.parent.iterdir()}


def test_a_round_is_pending_then_released(budget: PrivacyBudget) -> None:
    attempt = begin(budget)
    assert [line["state"] for line in read_json_lines(budget.file)] == ["pending"]
    assert budget.spent() == [STEPS] and not budget.releases()
    attempt.release()
    attempt.release()  # once is once
    assert [line["state"] for line in read_json_lines(budget.file)] == ["pending", "released"]
    assert budget.spent() == [STEPS] and budget.releases().total() == 1
    assert beside(budget) == {"privacy.jsonl", "privacy.jsonl.lock"}


def test_a_round_that_is_given_up_costs_nothing(budget: PrivacyBudget) -> None:
    begin(budget, mechanism=OTHER).end()
    assert budget.spent() == [] and budget.unit() is None
    again = begin(budget)
    again.end()
    again.release()  # too late: what was given up can no longer leave as paid
    assert budget.spent() == [] and not budget.releases()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_in_training_costs_nothing_and_counts_until_then(budget: PrivacyBudget, how: signal.Signals) -> None:
    begin(budget, mechanism=OTHER).release()
    process = process_of(budget, "train")
    assert budget.spent() == [OTHER, STEPS], "it may still be released"
    assert budget.spent(but_of="killed") == [OTHER]
    end(process, how)
    assert budget.spent() == [OTHER], "it never will be"
    begin(budget, "killed", 3).release()
    assert budget.spent() == [OTHER, STEPS] and budget.releases_again("killed", 4) == 0
    assert beside(budget) == {"privacy.jsonl", "privacy.jsonl.lock"}, "nothing of the dead process is left over"


def test_killed_after_the_release_costs_for_good(budget: PrivacyBudget) -> None:
    """Nobody can tell whether the reply was handed over in the moment that was left."""
    end(process_of(budget, "release"), signal.SIGKILL)
    assert budget.spent() == [STEPS] and budget.releases_again("killed", 3) == 1
    begin(budget, "killed", 3).release()
    assert budget.spent() == [STEPS, STEPS]


def test_killed_while_the_release_was_written_costs_nothing(budget: PrivacyBudget) -> None:
    process = process_of(budget, "train")
    whole = budget.file.read_bytes()
    budget.file.write_bytes(whole + whole.replace(b"pending", b"released")[:-10])
    assert budget.spent() == [STEPS]
    end(process, signal.SIGKILL)
    assert budget.spent() == []
    begin(budget, mechanism=OTHER).release()  # the torn line is cut off first
    assert budget.spent() == [OTHER]


def test_a_process_that_was_forked_meanwhile_holds_nothing(budget: PrivacyBudget) -> None:
    """A data loader's worker may live on for a moment."""
    attempt = begin(budget)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        attempt.end()
        assert budget.spent() == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_rounds_of_two_runs_at_once_both_count(budget: PrivacyBudget) -> None:
    first, second = begin(budget, "one"), begin(budget, "two", mechanism=OTHER)
    assert budget.spent() == [STEPS, OTHER]
    assert budget.spent() == [STEPS, OTHER], "to look changes nothing"
    first.end()
    assert budget.spent() == [OTHER]
    second.release()
    assert budget.spent() == [OTHER]


def test_a_release_after_the_account_was_begun_anew_is_in_the_new_one(budget: PrivacyBudget) -> None:
    attempt = begin(budget)
    assert budget.begin_anew() is not None
    assert budget.spent() == []
    attempt.release()
    assert budget.spent() == [STEPS]


def test_where_locks_do_not_work_no_round_begins_and_a_pending_one_stays_counted(
    budget: PrivacyBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = begin(budget)
    attempt.end()
    budget.lock_file(attempt.name).touch()

    def without_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("client.account.fcntl.flock", without_locks)
    assert budget.spent() == [STEPS]
    with pytest.raises(CheckpointError, match="No locks available"), budget.alone():
        pass


@pytest.mark.parametrize("damage", ['"state": "waived"', '"state": 1', '"state": "pending", "attempt": "../x"'])
def test_a_state_that_does_not_exist_is_damage(budget: PrivacyBudget, damage: str) -> None:
    begin(budget).release()
    text = budget.file.read_text()
    budget.file.write_text(text.replace('"state": "pending"', damage, 1))
    if "../x" in damage:  # of two keys of one name the last counts
        budget.file.write_text(text.replace('"attempt": "', '"attempt": "../', 1))
    with pytest.raises(CheckpointError, match="damaged"):
        budget.spent()
