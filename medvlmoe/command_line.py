"""The ``medvlmoe`` command: finds a subcommand and turns mistakes into one line and an exit code."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points

from medvlmoe.errors import EXIT_INTERRUPTED, EXIT_READER_GONE, EXIT_USER_ERROR, UserError

_USAGE = """usage: medvlmoe COMMAND [key=value ...]

Commands: {commands}
Arguments are Hydra overrides; `medvlmoe COMMAND --help` lists the keys.
Exit codes: 0 success, 1 a bug, 2 a mistake in configuration or data, 3 too few sites,
4 data differ from what was published, 5 some runs of a grid failed, 130 interrupted."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line.

    Returns:
        The exit code; see :mod:`medvlmoe.errors`.
    """
    _quiet_libraries()
    name = " ".join(["medvlmoe", *arguments[:1]])
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output once more when it ends, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_READER_GONE


def _dispatch(arguments: list[str]) -> int:
    commands = {entry.name: entry for entry in entry_points(group="medvlmoe.commands")}
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_USAGE.format(commands=", ".join(sorted(commands))))
        return 0
    if arguments[0] not in commands:
        print(f"medvlmoe: no command '{arguments[0]}'; there are {', '.join(sorted(commands))}", file=sys.stderr)
        return EXIT_USER_ERROR
    command: Callable[[list[str]], int] = commands[arguments[0]].load()
    return command(arguments[1:])


def _quiet_libraries() -> None:
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns when every expert was used
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for name in ("alembic", "httpx", "timm", "PIL", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
