"""``status.json`` in the run's folder: what the run and each hospital are doing now. ``medvlmoe status`` shows it."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from medvlmoe.errors import QuorumError, UserError
from medvlmoe.files import write_json

_HEARTBEAT_SECONDS = 5.0


class RunStatus:
    """Live state of a run, written when it changes and at least every few seconds while the server waits.

    The states of a site:

    - on its way: ``invited``, ``training`` (has its request), ``uploading``, ``uploaded``, ``merged``;
    - not there: ``missing`` (expected, and never taken into the run), ``unreachable`` (not connected),
      ``not reachable`` (the SuperLink did not take its request);
    - given up: ``late``, ``request not fetched``, ``connected anew, without a reply``,
      ``the reply was never uploaded whole``;
    - answered in vain: ``rejected: …`` (the reply broke the contract), ``failed: … (code …)`` (an error code),
      ``refused by policy: …``.

    Args:
        path: the file; its folder must exist.
        rounds: rounds planned.
    """

    def __init__(self, path: Path, rounds: int) -> None:
        self._path = path
        self._written = 0.0
        self._state: dict[str, Any] = {
            "phase": "starting",
            "round": 0,
            "rounds": rounds,
            "quorum": None,
            "process": {"host": socket.gethostname(), "pid": os.getpid()},
            "sites": {},
        }

    def phase(self, phase: str, *, server_round: int | None = None, quorum: int | None = None) -> None:
        """The run enters a phase: ``training``, ``validating``, ``testing``, ``finished`` …"""
        self._state["phase"] = phase
        if server_round is not None:
            self._state["round"] = server_round
        if quorum is not None:
            self._state["quorum"] = quorum
        self._write()

    def failed(self, error: BaseException) -> None:
        """The run ends with an error."""
        kind = "no quorum" if isinstance(error, QuorumError) else type(error).__name__
        self.phase(f"failed ({kind}): {error}" if isinstance(error, UserError) else f"failed ({kind})")

    def site(self, name: str, state: str) -> None:
        """A site enters a state; repeating the present one is a sign of life of this process."""
        before = self._state["sites"].get(name, {})
        if before.get("state") != state:
            self._state["sites"][name] = {**before, "state": state, "since": _now()}
            self._write()
        elif time.monotonic() - self._written > _HEARTBEAT_SECONDS:
            self._write()

    def merged(self, name: str, server_round: int) -> None:
        """A site's update is part of the model after this round."""
        before = self._state["sites"].get(name, {})
        rounds = before.get("rounds_merged", 0) + 1
        self._state["sites"][name] = {**before, "rounds_merged": rounds, "last_merged": server_round}
        self.site(name, "merged")

    def _write(self) -> None:
        self._written = time.monotonic()
        write_json(self._path, {**self._state, "updated": _now()})


def _now() -> float:
    return round(time.time(), 1)
