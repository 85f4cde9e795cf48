"""Normalised images from a cache file. Shape suffixes: N records, B batch, C H W image (volumes: C D H W)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medvlmoe.data.augmentation import NONE, augmented
from medvlmoe.errors import ConfigError


class MappedImages:
    """Rows of one cache file, normalised when read.

    Args:
        path: the cache file.
        rows_N: its rows that are used.
        channels: C of the images read, 1 or 3; one stored channel is repeated.
        mean: C means in 0..1.
        std: C standard deviations.
        augmentation: see :func:`medvlmoe.data.augmentation.augmented`.
    """

    def __init__(
        self,
        path: Path,
        rows_N: npt.NDArray[np.int64],
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: str = NONE,
    ) -> None:
        if not len(mean) == len(std) == channels:
            raise ConfigError(f"image mean and std need {channels} values, one for each channel")
        self._path, self._rows_N, self._augmentation = path, rows_N, augmentation
        self._scale_C = torch.tensor([1 / (255 * value) for value in std], dtype=torch.float32)
        self._shift_C = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
        self._pixels_NCHW: npt.NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels_NCHW": None}  # a worker process maps the file again instead of copying it

    def identity(self) -> str:
        """Which images these are, and how they are read: another text for others."""
        rows = hashlib.sha256(self._rows_N.tobytes()).hexdigest()
        return f"{self._path.name} {rows} {self._scale_C.tolist()} {self._shift_C.tolist()} {self._augmentation}"

    def read(self, rows_B: npt.NDArray[np.int64], seeds_B: npt.NDArray[np.int64] | None = None) -> Tensor:
        """Float32 images, B x C x H x W (volumes: B x C x D x H x W).

        Args:
            rows_B: positions in ``rows_N``.
            seeds_B: of each image's augmentation; ``None`` gives the images as they are.
        """
        if self._pixels_NCHW is None:
            self._pixels_NCHW = np.load(self._path, mmap_mode="r")
        pixels_BCHW = torch.from_numpy(self._pixels_NCHW[self._rows_N[rows_B]])
        if seeds_B is not None:
            pixels_BCHW = augmented(pixels_BCHW, self._augmentation, seeds_B)
        return self._normalised(pixels_BCHW)

    def _normalised(self, pixels_BCHW: Tensor) -> Tensor:
        a_channel = (-1, *(1 for _ in range(pixels_BCHW.ndim - 2)))
        scale, shift = self._scale_C.view(a_channel), self._shift_C.view(a_channel)
        values = pixels_BCHW.to(torch.float32)
        # Two passes in place: torch.addcmul in one is four times slower, it is not vectorised over channels.
        values = values.mul_(scale) if values.shape[1] == len(scale) else values * scale
        return values.add_(shift)
