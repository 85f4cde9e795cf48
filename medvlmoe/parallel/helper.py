"""One further process: its life, and the end of it that its starter holds."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as distributed

from medvlmoe.errors import LocalProcessError, UserError
from medvlmoe.parallel.rank import Rank

_LAST_WORDS_SECONDS = 5.0

Join = Callable[[Rank, torch.device, str], None]  # rank, device, folder where the processes meet


class Helper:
    """Starts a process and talks to it through a pipe.

    Args:
        rank: its place.
        device: the device that it computes on.
        folder: where the processes meet.
        threads: CPU threads of its own.
        join: makes it a member of the group of processes.
    """

    def __init__(self, rank: Rank, device: torch.device, folder: str, threads: int, join: Join) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
        self._name = f"local process {rank.number} ({device})"
        self.failure: tuple[float, Exception] | None = None  # when (monotonic clock), and what it raised
        self._connection, other_end = context.Pipe()
        # Not a daemon in multiprocessing's sense: those may not start the processes that load batches.
        own_method = multiprocessing.get_start_method()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(other_end, rank, device, folder, threads, join, own_method)
        )
        with _interrupts_held():
            self.process.start()
        other_end.close()

    def send(self, message: bytes) -> None:
        """Send a pickled task and its arguments; nothing at all (``b""``) ends the process.

        Raises:
            LocalProcessError: the process is gone.
        """
        try:
            self._connection.send_bytes(message)
        except OSError as error:
            if message:
                raise self._gone() from error

    def result(self) -> Any:
        """Wait for the answer to a task.

        Raises:
            LocalProcessError: the process is gone.
            Exception: what the task raised.
        """
        try:
            is_failure, when, value = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if is_failure:
            self.failure = when, value
            raise value
        return value

    def await_end(self, deadline: float) -> None:
        """Wait until the process has told of a failure or has ended; one that works on is left alone."""
        ready: list[Any] = [self._connection]
        while self._connection in ready and self.failure is None:
            ready = wait([self._connection, self.process.sentinel], max(0.0, deadline - time.monotonic()))
            if self._connection in ready:
                try:
                    self.result()
                except Exception:
                    break
        if self.process.sentinel in ready:  # its files are closed, but it may not be dead yet
            self.process.join(max(0.0, deadline - time.monotonic()))

    def killed(self) -> LocalProcessError | None:
        """The error to show if a signal ended the process."""
        return self._gone() if (self.process.exitcode or 0) < 0 else None

    def end(self, seconds: float) -> None:
        """Wait for the process's end, at most so long, then kill it."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._connection.close()

    def _gone(self) -> LocalProcessError:
        self.process.join(_LAST_WORDS_SECONDS)
        code = self.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else "ended too early"
        return LocalProcessError(
            f"{self._name} {how}; if memory ran out, use fewer devices, more training.accumulate or "
            "training.gradient_checkpointing=true"
        )


def _serve(
    connection: Connection,
    rank: Rank,
    device: torch.device,
    folder: str,
    threads: int,
    join: Join,
    start_method: str,
) -> None:
    """The whole life of the process: tasks one after the other, until told to end or until one fails."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starter is interrupted too, and decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_starter, daemon=True).start()
    # How the starter starts the processes that load its batches; else they would be spawned, for seconds each.
    multiprocessing.set_start_method(start_method, force=True)
    try:
        torch.set_num_threads(threads)
        connection.send_bytes(pickle.dumps((False, 0.0, None)))
        join(rank, device, folder)
        while message := connection.recv_bytes():
            connection.send_bytes(pickle.dumps((False, 0.0, _done(message, rank, device))))
        distributed.destroy_process_group()
    except (EOFError, BrokenPipeError):
        return  # the starter is gone
    except Exception as error:
        if not isinstance(error, UserError):
            error.add_note(f"in local process {rank.number} ({device}):\n{traceback.format_exc()}")
        connection.send_bytes(_pickled_failure(error))
        connection.close()
        os._exit(1)  # at once: whoever waits for this process in an exchange learns it from the closed sockets


def _done(message: bytes, rank: Rank, device: torch.device) -> Any:
    task, arguments = pickle.loads(message)
    return task(rank, device, *arguments)


def _pickled_failure(error: Exception) -> bytes:
    try:
        message = pickle.dumps((True, time.monotonic(), error))
        pickle.loads(message)  # some exceptions can be written and not read
        return message
    except Exception:
        return pickle.dumps((True, time.monotonic(), RuntimeError("".join(traceback.format_exception(error)))))


def _end_with_starter() -> None:
    starter = multiprocessing.parent_process()
    assert starter is not None
    starter.join()
    os._exit(1)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits: it must not reach a process that is not yet able to ignore it (a new process inherits this)."""
    resource_tracker.ensure_running()  # else started by the process's start, which then lets interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
