"""What the tests let other processes do, where those can import it."""

import os
import signal
import time

import torch

from medvlmoe.errors import DataError
from medvlmoe.parallel.rank import Rank


def describe(rank: Rank, device: torch.device, text: str) -> tuple[str, int, int, str, int, int]:
    return text, rank.number, rank.world_size, str(device), os.getpid(), torch.get_num_threads()


def add(rank: Rank, device: torch.device, value: int) -> torch.Tensor:
    return rank.sum(torch.tensor([value, rank.number]))


def receive(rank: Rank, device: torch.device) -> list[list[float]]:
    received = [torch.zeros(2, 3), torch.zeros(3, 2).t()]
    rank.copy_from_first(received)
    return [tensor.tolist() for tensor in received]


def meet_a_mistake(rank: Rank, device: torch.device) -> None:
    raise DataError("images/7.png: cannot be read; mend it")


def meet_a_bug(rank: Rank, device: torch.device) -> None:
    raise ZeroDivisionError("a bug")


def die(rank: Rank, device: torch.device) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(rank: Rank, device: torch.device) -> None:
    time.sleep(600)
