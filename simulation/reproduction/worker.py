"""A process that runs cells one after the other. A crash, or the system's out-of-memory killer, costs one cell."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from medvlmoe.errors import UserError
from simulation.reproduction.cell import Cell
from simulation.reproduction.run_cell import run_cell

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        reason: one line on why it failed; empty if it is finished.
    """

    reason: str = ""


class Worker:
    """A process of its own, started when it is made, that runs the cells it is given.

    Args:
        threads: that it computes with; ``None`` leaves the choice to torch.
    """

    def __init__(self, threads: int | None = None) -> None:
        # Not a fork: threads of torch and open files of the parent must not be in it.
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        # Not a daemon in multiprocessing's sense: those may not start the processes that load batches or share a model.
        self._process: BaseProcess = context.Process(
            target=_work, args=(other, logging.getLogger().level, threads), daemon=False
        )
        self._process.start()
        other.close()
        self.cell: Cell | None = None

    @property
    def connection(self) -> Connection:
        """Ready to read when the cell is done or the process is gone."""
        return self._connection

    def is_alive(self) -> bool:
        """Whether the process is there."""
        return self._process.is_alive()

    def start(self, cell: Cell) -> None:
        """Let it run a cell. If the process is gone by now, :meth:`outcome` says so."""
        self.cell = cell
        with contextlib.suppress(OSError):
            self._connection.send(cell)

    def outcome(self) -> Outcome | None:
        """What became of the cell; ``None`` if the process is gone. Waits for it."""
        try:
            outcome: Outcome | None = self._connection.recv()
        except (EOFError, OSError):
            outcome = None
        self.cell = None
        return outcome

    def exit_words(self) -> str:
        """How the process ended, for a message."""
        self._process.join()
        code = self._process.exitcode or 0
        if code == -9:
            return "its process was killed (signal 9), most often for want of memory; use fewer jobs or a smaller batch"
        return f"its process ended with {'signal' if code < 0 else 'code'} {abs(code)}"

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._connection.close()
        self._process.kill()
        self._process.join()


def _work(connection: Connection, level: int, threads: int | None) -> None:
    _die_with_the_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the parent ends this one
    if threads is not None:
        torch.set_num_threads(threads)
    while True:
        try:
            cell: Cell = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(_outcome_of(cell, level))


def _outcome_of(cell: Cell, level: int) -> Outcome:
    """Run a cell; its log goes to ``<folder>.log``."""
    log = cell.folder.with_name(f"{cell.folder.name}.log")
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        logging.basicConfig(filename=log, level=level, format="%(asctime)s %(message)s", force=True)
    except OSError as error:
        return Outcome(reason=f"cannot write {log}: {error.strerror or error}; choose another output.root")
    logging.captureWarnings(True)
    try:
        run_cell(cell)
    except UserError as error:
        logger.exception("failed")
        return Outcome(reason=" ".join(str(error).split()))
    except Exception as error:
        logger.exception("failed")
        last = traceback.extract_tb(error.__traceback__)[-1]
        words = " ".join(str(error).split())[:200]
        return Outcome(reason=f"a bug: {type(error).__name__} in {last.name}: {words} (traceback in {log})")
    return Outcome()


def _die_with_the_parent() -> None:
    """Else a killed grid would go on in the background, and write where the next one writes."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
