"""``medvlmoe status``: what a federated run and each of its hospitals are doing."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from medvlmoe.errors import EXIT_NO_QUORUM, EXIT_USER_ERROR, CheckpointError, ConfigError
from medvlmoe.files import read_json

_REFRESH_SECONDS = 2.0


def status(arguments: list[str]) -> int:
    """``medvlmoe status run=FOLDER [watch=true]``: one table from the run's folder, or one that follows the run.

    Returns:
        0 while the run goes on and after it has finished, 3 if it ended without its quorum, 2 if it failed or its
        process is gone.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if "run" not in given or given.keys() - {"run", "watch"} or given.get("watch", "false") not in ("true", "false"):
        raise ConfigError("say which run: medvlmoe status run=runs/federated-seed0 (watch=true follows it)")
    path = Path(given["run"]) / "status.json"
    if not path.exists():
        raise CheckpointError(f"{path.parent} has no status.json: no federated run has started there")
    state = read_json(path)
    console = Console()
    if given.get("watch") == "true":
        with Live(_table(state), console=console, auto_refresh=False) as live:
            while not _ended(state):
                time.sleep(_REFRESH_SECONDS)
                state = read_json(path)
                live.update(_table(state), refresh=True)
    else:
        console.print(_table(state))
    return _exit_code(state)


def _table(state: dict[str, Any]) -> Table:
    quorum = f", quorum {state['quorum']}" if state["quorum"] else ""
    table = Table(
        "hospital", "state", "since", "rounds merged", "last round",
        title=f"round {state['round']} of {state['rounds']}{quorum}: {state['phase']}",
        caption=_sign_of_life(state),
    )  # fmt: skip
    for name, site in sorted(state["sites"].items()):
        table.add_row(
            name,
            site["state"],
            _ago(site["since"]),
            str(site.get("rounds_merged", 0)),
            str(site.get("last_merged", "")),
        )
    return table


def _sign_of_life(state: dict[str, Any]) -> str:
    if _ended(state) and not _died(state):
        return ""
    if _died(state):
        return "the server process is gone; go on with resume=true"
    return f"last sign of life {_ago(state['updated'])} ago"


def _ended(state: dict[str, Any]) -> bool:
    return state["phase"] == "finished" or state["phase"].startswith("failed") or _died(state)


def _died(state: dict[str, Any]) -> bool:
    """Whether the server process, if it ran on this machine, is gone without having said so."""
    if state["phase"] == "finished" or state["phase"].startswith("failed"):
        return False
    process = state["process"]
    if process["host"] != socket.gethostname():
        return False
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is there, and somebody else's
    return False


def _exit_code(state: dict[str, Any]) -> int:
    if state["phase"].startswith("failed"):
        return EXIT_NO_QUORUM if state["phase"].startswith("failed (no quorum)") else EXIT_USER_ERROR
    return EXIT_USER_ERROR if _died(state) else 0


def _ago(moment: float) -> str:
    seconds = max(0, int(time.time() - moment))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
