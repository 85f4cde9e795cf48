"""Full disks, a cut line and a slow one: real ones. What was lost is done again, and the weights are the same."""

import contextlib
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.federation_parts import SITES, Parts, Tensors, assert_finished_as, needs_nginx, until
from tests.integration.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.long, pytest.mark.alone, needs_nginx]


MODEL_BYTES = 1_800_000


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of its own at ``folder``; what is there already is moved into it."""
    aside = folder.with_name(f"{folder.name}-aside")
    folder.mkdir(parents=True, exist_ok=True)
    folder.rename(aside)
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small disk here")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def enlarge(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=500m", str(folder)], check=True)


def interrupt(line: TcpProxy, seconds: float) -> None:
    line.cut()
    time.sleep(seconds)
    line.mend()


def in_state(parts: Parts, server_round: int, state: str) -> Callable[[], bool]:
    return lambda: parts.status["round"] == server_round and parts.state_of(SITES[0]) == state


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


@needs_root
def test_the_servers_disk_is_full(parts: Parts, uninterrupted: Callable[[int], Tensors]) -> None:
    parts.rounds = 3
    runs = parts.server_kit / "runs"
    with small_disk(runs, 5_000):  # the first checkpoint fits, a later one or a reply does not
        parts.start_run()
        until(lambda: "failed" in parts.status["phase"], "the end of a run on a full disk")
        assert not list(runs.rglob(".*.tmp")), "nothing half-written is left"
        enlarge(runs)
        parts.start_run()
        assert_finished_as(parts, uninterrupted)


@needs_root
def test_a_hospitals_disk_is_full(parts: Parts, uninterrupted: Callable[[int], Tensors]) -> None:
    parts.rounds = 2
    folder = parts.hospital_kit(SITES[0]) / "site"
    with small_disk(folder, 600):  # the images fit, the optimizer's state does not
        parts.start_run("federation.retries=20")
        until(lambda: "code 103" in parts.state_of(SITES[0]), "error code 103 (files)")
        assert parts.merged_rounds() == []
        enlarge(folder)
        assert_finished_as(parts, uninterrupted)


def test_a_line_that_is_slow_and_then_cut(parts: Parts, uninterrupted: Callable[[int], Tensors]) -> None:
    """In the middle of an upload, and for so long that the hospital counts as out of reach; nothing is lost."""
    parts.rounds = 2
    parts.start_run()
    until(in_state(parts, 1, "uploading"), "an upload")
    for seconds in (0.2, 0.2, 12.0, 0.2):
        interrupt(parts.line, seconds)
        time.sleep(0.7)  # the SuperLink takes something, and is cut off before it can say so, or not
    until(in_state(parts, 2, "training"), "training in round 2")
    parts.line.cut()
    until(in_state(parts, 2, "unreachable"), "Flower to count the hospital as out of reach")
    time.sleep(5)
    parts.line.mend()
    assert_finished_as(parts, uninterrupted)
    assert all(parts.trained(site) == Counter([1, 2]) for site in SITES), "each round once"
    assert parts.line.forwarded > parts.rounds * 2 * MODEL_BYTES  # both ways
