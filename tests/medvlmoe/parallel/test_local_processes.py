import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as distributed

from medvlmoe.errors import ConfigError, DataError, LocalProcessError
from medvlmoe.parallel.local_processes import LocalProcesses, close_local_processes, local_processes
from medvlmoe.parallel.rank import Rank
from tests.medvlmoe.parallel import tasks

TWO = [torch.device("cpu")] * 2


@pytest.fixture(scope="module", autouse=True)
def end_of_the_processes():
    yield
    close_local_processes()


def run(task: Callable, *arguments: object) -> list:
    with local_processes(TWO).running(task, *arguments) as collect:
        return collect()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_task_runs_in_a_process_that_stays() -> None:
    first, second = run(tasks.describe, "one")[0], run(tasks.describe, "two")[0]
    assert first[:4] == ("one", 1, 2, "cpu")
    assert second[0] == "two"
    assert first[4] == second[4] != os.getpid()


def test_the_processes_share_the_threads() -> None:
    before = torch.get_num_threads()
    close_local_processes()
    try:
        torch.set_num_threads(2)
        with local_processes(TWO).running(tasks.describe, "") as collect:
            assert torch.get_num_threads() == collect()[0][5] == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_sums_and_copies_over_the_processes() -> None:
    rank = Rank(0, 2)
    with local_processes(TWO).running(tasks.add, 40) as collect:
        assert rank.sum(torch.tensor([2, 0])).tolist() == collect()[0].tolist() == [42, 1]
    first = [torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3)]
    with local_processes(TWO).running(tasks.receive) as collect:
        rank.copy_from_first(first)
        assert collect()[0] == [tensor.tolist() for tensor in first]


def test_one_process_needs_no_group() -> None:
    tensor = torch.ones(3)
    assert Rank().sum(tensor) is tensor
    Rank().copy_from_first([tensor])


def test_a_mistake_elsewhere_is_raised_here_as_it_was() -> None:
    pid = run(tasks.describe, "")[0][4]
    with (
        pytest.raises(DataError, match=r"^images/7.png: cannot be read; mend it$"),
        local_processes(TWO).running(tasks.meet_a_mistake),
    ):
        Rank(0, 2).sum(torch.ones(1))  # the other one never comes to the exchange
    assert not is_alive(pid)
    assert not distributed.is_initialized()
    assert run(tasks.describe, "again")[0][0] == "again"


def test_a_bug_elsewhere_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        run(tasks.meet_a_bug)
    assert "local process 1 (cpu)" in caught.value.__notes__[0] and "in meet_a_bug" in caught.value.__notes__[0]


@pytest.mark.parametrize("waits_in", ["exchange", "result"])
def test_a_killed_process_is_an_error_and_no_hang(waits_in: str) -> None:
    with (
        pytest.raises(LocalProcessError, match=r"local process 1 \(cpu\) was killed by SIGKILL; if memory ran out"),
        local_processes(TWO).running(tasks.die) as collect,
    ):
        collect() if waits_in == "result" else Rank(0, 2).sum(torch.ones(1))


def test_an_error_here_ends_the_processes() -> None:
    pid = run(tasks.describe, "")[0][4]
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), local_processes(TWO).running(tasks.sleep):
        raise KeyboardInterrupt
    assert not is_alive(pid)
    assert time.monotonic() - started < 60  # it would have slept for ten minutes


def test_a_group_of_another_owner_is_refused(tmp_path: Path) -> None:
    close_local_processes()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ConfigError, match="devices=1"):
            LocalProcesses(TWO)
    finally:
        distributed.destroy_process_group()


ORPHANS = """
import sys, torch
sys.path.insert(0, {project!r})
from tests.medvlmoe.parallel import tasks
from medvlmoe.parallel.local_processes import local_processes
if __name__ == "__main__":
    with local_processes([torch.device("cpu")] * 2).running(tasks.describe, "") as collect:
        print(collect()[0][4], flush=True)
    with local_processes([torch.device("cpu")] * 2).running(tasks.sleep) as collect:
        collect()
"""


def test_no_process_outlives_a_killed_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ORPHANS.format(project=str(Path(__file__).resolve().parents[3])))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.kill()
    deadline = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
