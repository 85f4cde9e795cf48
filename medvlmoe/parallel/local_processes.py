"""Further processes on this machine, one for each further device, that compute beside this one.

They are started once and stay (importing torch and the model takes seconds), hold nothing that is not sent to them
anew with each task, and end with this process, however that ends. Exchange goes over the loopback interface; the
processes meet through a file in a private folder, so that no port is open to others.
"""

import atexit
import os
import pickle
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any

import torch
import torch.distributed as distributed

from medvlmoe.errors import ConfigError, UserError
from medvlmoe.parallel.helper import Helper
from medvlmoe.parallel.rank import Rank

Task = Callable[..., Any]  # called with the rank and the device of its process, then with what was sent

# A process that hangs without having ended; one that merely reads slow files must not be taken for it.
_EXCHANGE_TIMEOUT = timedelta(minutes=30)
_LAST_WORDS_SECONDS = 5.0  # in which a process tells why an exchange with it has failed
_END_SECONDS = 5.0


class LocalProcesses:
    """One process for each device but the first, which is this process's own.

    Args:
        devices: at least two.

    Raises:
        LocalProcessError: a process ended while it started.
        ConfigError: this process already belongs to a torch.distributed group.
    """

    def __init__(self, devices: list[torch.device]) -> None:
        if distributed.is_initialized():
            raise ConfigError("this process is in a torch.distributed group already (torchrun?); use devices=1")
        self.devices = list(devices)
        self.is_open = True
        self._threads = max(1, torch.get_num_threads() // len(devices))
        self._folder = tempfile.TemporaryDirectory(prefix="medvlmoe-")  # readable by this user only
        self._helpers = [self._start(number) for number in range(1, len(devices))]
        try:
            for helper in self._helpers:
                helper.result()  # it has imported everything: from here on all meet without delay
            _join_group(Rank(0, len(devices)), devices[0], self._folder.name)
        except BaseException:
            self._kill()
            raise
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def running(self, task: Task, *arguments: Any) -> Iterator[Callable[[], list[Any]]]:
        """Run ``task`` in every other process while the body of the ``with`` statement runs here.

        Args:
            task: a function of a module; called with the process's rank and device and the arguments.
            arguments: anything that can be pickled.

        Yields:
            A function that waits for the processes and gives what ``task`` returned in each, in their order. It need
            not be called: the body's end waits too.

        Raises:
            UserError: a mistake that a process met, as if it had been met here.
            LocalProcessError: a process was killed.
            Exception: whatever else a process raised. After any error the processes are gone.
        """
        message = pickle.dumps((task, arguments))
        results: list[Any] = []

        def collect() -> list[Any]:
            if not results:
                results.extend(helper.result() for helper in self._helpers)
            return results

        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            for helper in self._helpers:
                helper.send(message)
            del message
            yield collect
            collect()
        except BaseException as error:
            cause = self._cause(error)
            self._kill()
            if cause is None or cause is error:
                raise
            raise cause from error
        finally:
            torch.set_num_threads(threads)

    def close(self) -> None:
        """End the processes."""
        if not self.is_open:
            return
        self.is_open = False
        for helper in self._helpers:
            helper.send(b"")
        if distributed.is_initialized():
            distributed.destroy_process_group()
        self._end(_END_SECONDS)

    def _start(self, number: int) -> Helper:
        rank = Rank(number, len(self.devices))
        return Helper(rank, self.devices[number], self._folder.name, self._threads, _join_group)

    def _cause(self, error: BaseException) -> BaseException | None:
        """What went wrong elsewhere, if that is why something went wrong here; ``None`` if it began here."""
        if isinstance(error, UserError | KeyboardInterrupt | SystemExit):
            return None
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        for helper in self._helpers:
            helper.await_end(deadline)
        killed = [helper.killed() for helper in self._helpers if helper.killed() is not None]
        told = sorted((helper.failure for helper in self._helpers if helper.failure), key=lambda failure: failure[0])
        return killed[0] if killed else told[0][1] if told else None

    def _watch(self) -> None:
        """Free this process from an exchange with a dead one. Gloo notices by itself, NCCL would wait for ever."""
        wait([helper.process.sentinel for helper in self._helpers])
        group = distributed.group.WORLD
        if self.is_open and self.devices[0].type == "cuda" and group is not None:
            group.abort()

    def _kill(self) -> None:
        self.is_open = False
        for helper in self._helpers:
            helper.process.kill()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        self._end(_END_SECONDS)

    def _end(self, seconds: float) -> None:
        for helper in self._helpers:
            helper.end(seconds)
        self._folder.cleanup()


_current: LocalProcesses | None = None


def local_processes(devices: list[torch.device]) -> LocalProcesses:
    """The processes for these devices; those of the last call if they still fit, else new ones in their place."""
    global _current
    if _current is None or not _current.is_open or _current.devices != devices:
        close_local_processes()
        _current = LocalProcesses(devices)
    return _current


@atexit.register  # before multiprocessing waits for all processes that are not daemons
def close_local_processes() -> None:
    """End the processes that :func:`local_processes` keeps; without any, nothing happens."""
    global _current
    if _current is not None:
        _current.close()
        _current = None


def _join_group(rank: Rank, device: torch.device, folder: str) -> None:
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if distributed.is_nccl_available() else "gloo"
    store = distributed.FileStore(os.path.join(folder, "meeting"), rank.world_size)
    distributed.init_process_group(
        backend, store=store, rank=rank.number, world_size=rank.world_size, timeout=_EXCHANGE_TIMEOUT
    )
