"""The programs that a SuperNode may start, in a folder that is all of its PATH.

A SuperNode starts ``flower-superexec``, and that starts by name whatever kind of task the server asks for: a ClientApp,
but also an agent, a connector or a model, each with code of the server. Only the first has a program here.
"""

import os
import shlex
import sys
from pathlib import Path

from flwr.supercore.constant import TASK_TYPE_TO_COMMAND, TaskType

from medvlmoe.files import write_text

_CLIENT_APP = TASK_TYPE_TO_COMMAND[TaskType.CLIENT_APP]
_SUPEREXEC = "flower-superexec"


def write_programs(folder: Path) -> Path:
    """Write the programs into a folder, and nothing else may be in it; the folder.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    python, path = shlex.quote(sys.executable), shlex.quote(os.environ.get("PATH", os.defpath))
    here = Path(sys.executable).parent
    lines = {name: _refusal(name) for name in TASK_TYPE_TO_COMMAND.values()} | {
        # The PATH of before is given back: the data loader or the GPU's compiler may need it.
        _CLIENT_APP: f'PATH={path} exec {python} -P -m client.launcher.clientapp "$@"',
        _SUPEREXEC: f'exec {shlex.quote(str(here / _SUPEREXEC))} "$@"',
    }
    for name, line in lines.items():
        write_text(folder / name, f"#!/bin/sh\n{line}\n", key=None)
        (folder / name).chmod(0o700)
    for stranger in folder.iterdir():
        if stranger.name not in lines:
            stranger.unlink()
    return folder


def _refusal(name: str) -> str:
    return f"echo '{name}: this site runs nothing but its own ClientApp' >&2\nexit 1"
