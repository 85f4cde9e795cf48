"""Which device to train on, and what makes two runs on it equal."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from medvlmoe.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA if there is any, else the CPU.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device '{name}' is unknown; use auto, cpu, cuda or cuda:<number>") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device '{name}' is not there ({torch.cuda.device_count()} GPUs); use auto or cpu")
    return device


def resolve_devices(device: str, devices: int | str) -> list[torch.device]:
    """The device of each local process that trains.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` …
        devices: how many, one process each. ``all`` is every GPU, or one process on a machine without any. On a CPU a
            number of processes share its cores.

    Raises:
        ConfigError: there are not so many, or not of this device.
    """
    first = resolve_device(device)
    if str(devices) != "all" and not (str(devices).isdecimal() and int(devices) >= 1):
        raise ConfigError(f"devices={devices}: use a whole number of at least 1, or all")
    if str(devices) == "1" or (devices == "all" and first.type != "cuda"):
        return [first]
    if first.type == "cuda":
        there = torch.cuda.device_count()
        if first.index is not None:
            raise ConfigError(
                f"devices={devices}: device={device} is one GPU; use device=cuda, and CUDA_VISIBLE_DEVICES to choose"
            )
        if devices != "all" and int(devices) > there:
            raise ConfigError(f"devices={devices}: there are {there} GPUs; use all")
        return [torch.device("cuda", index) for index in range(there if devices == "all" else int(devices))]
    if first.type != "cpu":
        raise ConfigError(f"devices={devices}: only CUDA and the CPU train with several processes; use devices=1")
    return [first] * int(devices)


@contextmanager
def deterministic_algorithms(device: torch.device) -> Iterator[None]:
    """Choose kernels whose result does not depend on timing; the previous choice comes back afterwards.

    Operations that have no such kernel warn once and go on.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first use
    debugging: Any = torch.utils.deterministic
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = debugging.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    debugging.fill_uninitialized_memory = False  # it costs a pass over each new tensor
    torch.backends.cudnn.benchmark = False  # it picks kernels by their speed on the day
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        debugging.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Give the caller's random state back afterwards, whatever is drawn or seeded inside."""
    accelerated = device.type != "cpu"
    devices = [device.index or 0] if accelerated else []
    with torch.random.fork_rng(devices, device_type=device.type if accelerated else "cuda"):
        yield
