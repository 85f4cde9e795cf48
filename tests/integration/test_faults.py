"""Kill any process of a federation in any phase: at most the current round is lost, and the weights are the same.

The processes are real, started from provisioned kits; each is killed with SIGKILL. The reference is an uninterrupted
simulation of the same run, which gives the same bits as an uninterrupted networked one. The first hospital's line is
slow, so that an upload takes seconds; a process that could get out of its phase is stopped (SIGSTOP) before the kill.

Ordinarily one process of each kind is killed in one run. ``MEDVLMOE_FAULTS=all`` kills each of
them in every phase.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.integration.federation_parts import COMMANDS, SITES, Parts, Tensors, assert_finished_as, needs_nginx, until

pytestmark = [pytest.mark.long, pytest.mark.alone, needs_nginx]
in_every_phase = pytest.mark.skipif(
    os.environ.get("MEDVLMOE_FAULTS") != "all", reason="MEDVLMOE_FAULTS=all kills in every phase"
)

VICTIM = SITES[0]
PHASES = ("before sampling", "training", "uploading", "merging", "writing the checkpoint")
PART = {"SuperLink": "superlink", "ServerApp": "superexec", "SuperNode": VICTIM, "ClientApp": VICTIM}


@contextmanager
def phase(parts: Parts, name: str, server_round: int) -> Iterator[None]:
    """The context's body runs in this phase of the round (or of a later one), seen in what the processes really do."""

    def before_sampling() -> bool:
        return parts.reached(server_round, "waiting for hospitals")

    def trains() -> bool:
        """Its images are open, and there is no reply yet."""
        pid = parts.process(VICTIM, COMMANDS["ClientApp"])
        return parts.reached(server_round, "training") and has_images(pid) and not parts.replied(VICTIM, pid)

    def uploads() -> bool:
        return parts.reached(server_round, "training") and parts.state_of(VICTIM) == "uploading" and parts.sends(VICTIM)

    def merges() -> bool:
        return (
            parts.reached(server_round, "training")
            and all(parts.state_of(site) == "uploaded" for site in SITES)
            and parts.status["round"] not in parts.merged_rounds()
        )

    def writes() -> bool:
        written = (parts.run_folder / "checkpoints").glob(".round-*.safetensors.*.tmp")
        return any(int(file.name[7:12]) >= server_round for file in written)

    part, kind, condition, poll = {
        "before sampling": ("superexec", "ServerApp", before_sampling, 0.001),
        "training": (VICTIM, "ClientApp", trains, 0.05),
        "uploading": (VICTIM, "SuperNode", uploads, 0.05),
        "merging": ("superexec", "ServerApp", merges, 0.001),
        "writing the checkpoint": ("superexec", "ServerApp", writes, 0.001),
    }[name]
    with parts.held(part, kind, condition, f"{name}, round {server_round}", poll):
        yield


def has_images(pid: int | None) -> TypeGuard[int]:
    """Whether a ClientApp has opened its images: what comes next is training."""
    if pid is None:
        return False
    try:
        return "/cache/images-" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def kill(parts: Parts, kind: str, name: str, server_round: int) -> None:
    """Kill a process in a phase, and do what docs/deployment.md says."""
    with phase(parts, name, server_round):
        parts.kill(PART[kind], kind)
    if kind == "SuperLink":
        parts.stop("superlink")
        parts.start_superlink()  # as systemd does
    if kind in ("SuperLink", "ServerApp"):
        parts.start_run()


def kill_half_handed_over(parts: Parts, server_round: int) -> None:
    """Kill the ClientApp when its SuperNode has a part of its reply."""

    def has_a_reply() -> bool:
        pid = parts.process(VICTIM, COMMANDS["ClientApp"])
        return parts.reached(server_round, "training") and pid is not None and parts.replied(VICTIM, pid)

    with parts.held(VICTIM, "ClientApp", has_a_reply, "a reply that is ready", poll=0.005) as pid:
        while not parts.sends(VICTIM):  # the SuperNode looks every half second
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.02)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.6)
        parts.kill(VICTIM, "ClientApp")
    until(lambda: "died while it handed over" in parts.log(VICTIM).read_text(errors="replace"), "half a reply", 300)


def assert_same_and_nothing_trained_twice(parts: Parts, uninterrupted: Callable[[int], Tensors], kills: int) -> None:
    assert_finished_as(parts, uninterrupted)
    for site in SITES:
        trained, repeated = parts.trained(site), parts.repeated(site)
        assert set(trained + repeated) == set(range(1, parts.rounds + 1))
        assert max(trained.values()) == 1, "the request of a round that was lost is answered with the reply of before"
        assert repeated.total() <= kills


def test_one_process_of_each_kind_is_killed(parts: Parts, uninterrupted: Callable[[int], Tensors]) -> None:
    parts.rounds = 3
    parts.start_run()
    with phase(parts, "training", 1):
        parts.kill(VICTIM, "ClientApp")
        parts.kill(SITES[1], "SuperNode")
    kill(parts, "ServerApp", "merging", 2)
    kill(parts, "SuperLink", "writing the checkpoint", 3)
    assert_same_and_nothing_trained_twice(parts, uninterrupted, 4)


@in_every_phase
@pytest.mark.parametrize("kind", ["ServerApp", "SuperLink", "SuperNode"])
def test_killed_in_every_phase(parts: Parts, uninterrupted: Callable[[int], Tensors], kind: str) -> None:
    parts.start_run()
    for server_round, name in enumerate(PHASES, start=1):
        kill(parts, kind, name, server_round)
    assert_same_and_nothing_trained_twice(parts, uninterrupted, len(PHASES))


@in_every_phase
def test_a_client_app_is_killed_in_every_phase_in_which_it_lives(
    parts: Parts, uninterrupted: Callable[[int], Tensors]
) -> None:
    """One that introduces itself is the only one before sampling; while the server merges and writes there is none."""
    parts.start_run()
    until(lambda: parts.process(VICTIM, COMMANDS["ClientApp"]), "an introduction", poll=0.02)
    assert parts.status["round"] == 0 and not parts.trained(VICTIM)
    parts.kill(VICTIM, "ClientApp")
    kill(parts, "ClientApp", "training", 1)
    kill_half_handed_over(parts, 2)
    for server_round, name in ((3, "merging"), (4, "writing the checkpoint")):
        with phase(parts, name, server_round):
            until(lambda: not any(parts.process(site, COMMANDS["ClientApp"]) for site in SITES), "none", 60)
    assert_same_and_nothing_trained_twice(parts, uninterrupted, 3)
