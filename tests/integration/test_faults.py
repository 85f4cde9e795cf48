"""Kill any process of a federation in any phase: at most the current round is lost, and the weights are the same.

The processes are real, started from provisioned kits; each is killed with SIGKILL. The reference is an uninterrupted
simulation of the same run, which gives the same bits as an uninterrupted networked one.
"""

import contextlib
import os
import shutil
from collections.abc import Callable

import pytest
import torch

from tests.integration.federation_parts import SITES, Parts, assert_finished_as, until

pytestmark = [
    pytest.mark.long,
    # Not part of `make test-long` yet: it has not been seen to pass on an idle machine.
    pytest.mark.skipif("MEDVLMOE_FAULTS" not in os.environ, reason="set MEDVLMOE_FAULTS=1 to kill processes"),
    pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") is None,
                       reason="nginx is not installed: make nginx"),
]  # fmt: skip


def in_round(parts: Parts, server_round: int, condition: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: parts.status["round"] == server_round and condition()


def writes_checkpoint(parts: Parts, server_round: int) -> bool:
    folder = parts.server_kit / "runs" / "faults" / "checkpoints"
    return any(folder.glob(f".round-{server_round:05d}.safetensors.*.tmp"))


def phases(parts: Parts) -> list[tuple[str, int, Callable[[], bool], float]]:
    """When to kill: name, round, condition, and how often to look."""
    first, second = SITES

    def uploads() -> bool:
        return parts.state_of(first) in ("uploading", "uploaded") and parts.state_of(second) == "training"

    def merges() -> bool:
        return parts.state_of(second) == "uploaded" and 3 not in parts.merged_rounds()

    return [
        ("before the first message", 1, in_round(parts, 1, lambda: True), 0.02),
        ("while training", 1, in_round(parts, 1, lambda: parts.state_of(second) == "training"), 0.02),
        ("while uploading", 2, in_round(parts, 2, uploads), 0.02),
        ("while merging", 3, in_round(parts, 3, merges), 0.001),
        ("while writing the checkpoint", 4, lambda: writes_checkpoint(parts, 4), 0.0005),
    ]


def test_the_server_app_is_killed_in_every_phase(parts: Parts, uninterrupted: dict[str, torch.Tensor]) -> None:
    for name, _, condition, poll in phases(parts):
        run = parts.start_run()
        until(condition, name, poll=poll)
        finished = len(parts.merged_rounds())
        parts.kill("superexec", "flwr-serverapp")
        run.join(600)
        assert len(parts.merged_rounds()) <= finished + 1
    parts.start_run()
    assert_finished_as(parts, uninterrupted)


def test_the_superlink_is_killed_in_every_phase(parts: Parts, uninterrupted: dict[str, torch.Tensor]) -> None:
    for name, _, condition, poll in phases(parts)[:4]:
        parts.start_run()
        until(condition, name, poll=poll)
        parts.kill("superlink", "flower-superlink")
        parts.stop("superlink")
        # What the SuperLink held is gone, the run too; what the ServerApp wrote is there.
        with contextlib.suppress(AssertionError):
            parts.kill("superexec", "flwr-serverapp")
        parts.start_superlink()
    parts.start_run()
    assert_finished_as(parts, uninterrupted)


def test_a_hospital_is_killed_in_every_phase(parts: Parts, uninterrupted: dict[str, torch.Tensor]) -> None:
    site = SITES[1]
    parts.start_run()
    kills = [
        (1, "flower-supernode", lambda: parts.status["phase"] == "training"),
        (2, "flower-supernode", lambda: parts.process(site, "flwr-clientapp") is not None),
        (3, "flwr-clientapp", lambda: parts.process(site, "flwr-clientapp") is not None),
        (4, "flower-supernode", lambda: parts.state_of(site) == "uploading"),
    ]
    for server_round, command, condition in kills:
        until(in_round(parts, server_round, condition), f"{command} in round {server_round}", poll=0.01)
        parts.kill(site, command)
        if command == "flower-supernode":
            parts.stop(site)
            parts.start_hospital(site)
    assert_finished_as(parts, uninterrupted)
