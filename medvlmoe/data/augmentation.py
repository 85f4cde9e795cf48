"""Random changes of training images, chosen by what the images show; the reasons stand in docs/data-pipeline.md.

Every change of a record follows from one number, drawn for the run's seed, the epoch and the record's row: batches,
workers and resumed runs see the same pixels. The transforms are torchvision's, on uint8 pixels, before normalisation.

Shape suffixes: B batch, C channels, D slices, S rows and columns.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

NONE = "none"


class AxialShift(v2.Transform):
    """Move a volume (D x C x S x S) along its slices; the slices that come in are black.

    Args:
        fraction: largest shift, as a share of the slices.
    """

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the shift in slices."""
        largest = int(self.fraction * len(flat_inputs[0]))
        return {"slices": int(torch.randint(-largest, largest + 1, ()))}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Shift by ``params["slices"]``, up if positive."""
        slices = params["slices"]
        moved = inpt.roll(slices, dims=0)
        if slices > 0:
            moved[:slices] = 0
        elif slices < 0:
            moved[slices:] = 0
        return moved


_AUGMENTATIONS: dict[str, v2.Transform] = {
    "chest": v2.Compose(
        [
            v2.RandomAffine(10, translate=(0.05, 0.05), scale=(0.9, 1.1), interpolation=InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=0.15, contrast=0.15),
        ]
    ),
    "pathology": v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomApply([v2.RandomRotation((90, 90))]),  # with the flips: all eight ways to lay down a slide
            v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.03),
        ]
    ),
    "fundus": v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(180, scale=(0.95, 1.05), interpolation=InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.05),
        ]
    ),
    "volume": v2.Compose(
        [
            AxialShift(0.1),
            v2.RandomAffine(5, translate=(0.05, 0.05), scale=(0.95, 1.05), interpolation=InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=0.1),  # contrast would be taken slice by slice
        ]
    ),
}


def augmented(pixels_BCSS: Tensor, augmentation: str, seeds_B: npt.NDArray[np.int64]) -> Tensor:
    """Each image changed by the random numbers that its own seed gives; no other random stream is touched.

    Args:
        pixels_BCSS: uint8, B x C x S x S, or B x C x D x S x S for volumes.
        augmentation: a name of :data:`medvlmoe.data.config.MODALITIES`, or ``none``.
        seeds_B: a seed for each image.
    """
    if augmentation == NONE:
        return pixels_BCSS
    transform = _AUGMENTATIONS[augmentation]
    with torch.random.fork_rng(devices=[]):
        return torch.stack(
            [_changed(pixels, transform, seed) for pixels, seed in zip(pixels_BCSS, seeds_B.tolist(), strict=True)]
        )


def _changed(pixels_CSS: Tensor, transform: v2.Transform, seed: int) -> Tensor:
    torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every GPU
    if pixels_CSS.ndim == 4:  # torchvision takes a volume for a video: slices first
        return transform(pixels_CSS.transpose(0, 1)).transpose(0, 1)
    return transform(pixels_CSS)
