"""The global model, built by a process of its own.

The libraries of the encoders take more memory than a server needs for everything else, and a process gives memory back
for certain only by ending.
"""

import multiprocessing
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import LocalProcessError
from medvlmoe.files import cannot_write, save_tensors
from medvlmoe.logs import show_progress
from medvlmoe.model.config import MedVLMoEConfig
from server.global_model import GlobalModel

_PREFIX = ".building-"
_LEFT_OVER_SECONDS = 3600.0


def initial_model(config: MedVLMoEConfig, label_space: LabelSpace, seed: int, root: str) -> GlobalModel:
    """:meth:`GlobalModel.initial`, its parameters on disk.

    Args:
        config: architecture.
        label_space: rows of the head.
        seed: of the random weights.
        root: folder on the disk that the parameters are written to. They lose their name as soon as they are there.

    Raises:
        CheckpointError: ``root`` cannot be written.
        LocalProcessError: the process was ended from outside.
        UserError: what building the model raises.
    """
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        _remove_left_over(Path(root))
        folder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=root)
    except OSError as error:
        raise cannot_write(Path(root), error) from error
    with folder as name:
        file = Path(name) / "initial.safetensors"
        model = _run(config, label_space, seed, file)
        model.read_from(file)  # it stays open
    return model


def model_to_resume(config: MedVLMoEConfig, label_space: LabelSpace) -> GlobalModel:
    """:meth:`GlobalModel.to_resume`."""
    return _run(config, label_space, None, None)


def _run(config: MedVLMoEConfig, label_space: LabelSpace, seed: int | None, file: Path | None) -> GlobalModel:
    # Not forked: what the other threads of this process hold would be held in the child for ever.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), show_progress, ("medvlmoe",)) as pool:
        try:
            normalised, exchanged, fixed = pool.submit(_build, config, label_space, seed, file).result()
        except BrokenProcessPool as error:
            raise LocalProcessError(
                "the process that builds the model is gone, most often for want of memory; free some"
            ) from error
    return GlobalModel(
        config=normalised, label_space=label_space, exchanged=_without_values(exchanged), fixed=_without_values(fixed)
    )


def _remove_left_over(root: Path) -> None:
    """What processes that were killed while they built a model have left; building one takes minutes at most."""
    for folder in root.glob(f"{_PREFIX}*"):
        if time.time() - folder.stat().st_mtime > _LEFT_OVER_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


_Shapes = dict[str, tuple[int, ...]]


def _build(
    config: MedVLMoEConfig, label_space: LabelSpace, seed: int | None, file: Path | None
) -> tuple[MedVLMoEConfig, _Shapes, _Shapes]:
    if file is None or seed is None:
        model = GlobalModel.to_resume(config, label_space)
    else:
        model = GlobalModel.initial(config, label_space, seed)
        save_tensors(file, model.state())
    return (
        model.config,
        {name: tuple(tensor.shape) for name, tensor in model.exchanged.items()},
        {name: tuple(tensor.shape) for name, tensor in model.fixed.items()},
    )


def _without_values(shapes: _Shapes) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
