"""Data sets that give whole batches from memory-mapped images.

Shape suffixes: N records, B batch, C H W image, L tokens, U different texts, Y labels of the federation.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from medvlmoe.data.batch import Batch
from medvlmoe.data.cache import decoded_images
from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders.registry import load_index
from medvlmoe.data.split import SPLITS
from medvlmoe.data.tokenizer import Tokenizer
from medvlmoe.errors import ConfigError, DataError


class MappedImages:
    """Rows of one cache file, normalised when read."""

    def __init__(
        self, path: Path, rows_N: npt.NDArray[np.int64], channels: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        if not len(mean) == len(std) == channels:
            raise ConfigError(f"image mean and std need {channels} values, one for each channel")
        self._path, self._rows_N = path, rows_N
        self._scale_C11 = torch.tensor([1 / (255 * value) for value in std], dtype=torch.float32).view(-1, 1, 1)
        self._shift_C11 = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1)
        self._pixels_NCHW: npt.NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels_NCHW": None}  # a worker process maps the file again instead of copying it

    def read(self, rows_B: npt.NDArray[np.int64]) -> Tensor:
        """Float32 images, B x C x H x W; one stored channel is repeated C times."""
        if self._pixels_NCHW is None:
            self._pixels_NCHW = np.load(self._path, mmap_mode="r")
        pixels = torch.from_numpy(self._pixels_NCHW[self._rows_N[rows_B]]).to(torch.float32)
        return torch.addcmul(self._shift_C11, pixels, self._scale_C11)


class SiteDataset(Dataset[Batch]):
    """Records of one site and split, or of several sites pooled by :func:`concatenate`.

    Attributes:
        labels_NY: float32 in the federation's label space, NaN where unknown.
        patient_ids: N patients.
        study_ids: N studies.
        label_space: the federation's space, Y labels.
        left_out: reason -> number of the site's records that were left out (over all splits).
        notes: facts about the data worth a line in a result file.
    """

    def __init__(
        self,
        *,
        images: Sequence[MappedImages],
        counts: Sequence[int],
        tokens_UL: tuple[Tensor, Tensor],
        text_of_N: Tensor,
        labels_NY: Tensor,
        patient_ids: list[str],
        study_ids: list[str],
        label_space: LabelSpace,
        left_out: dict[str, int],
        notes: dict[str, str],
    ) -> None:
        self._images, self._counts = list(images), list(counts)
        self._first_N = np.concatenate([[0], np.cumsum(self._counts)])
        self._tokens_UL, self._text_of_N = tokens_UL, text_of_N
        self.labels_NY = labels_NY
        self.patient_ids, self.study_ids = patient_ids, study_ids
        self.label_space, self.left_out, self.notes = label_space, left_out, notes

    def __len__(self) -> int:
        return len(self.patient_ids)

    def __getitem__(self, index: int) -> Batch:
        """A batch of one record."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The records at ``indices`` as one batch; its texts are cut to the longest of them."""
        rows_B = np.asarray(indices, dtype=np.int64)
        if len(rows_B) == 0 or rows_B.min() < 0 or rows_B.max() >= len(self):
            raise IndexError(f"batch indices must be in 0..{len(self) - 1}, and at least one")
        positions_B = torch.from_numpy(rows_B)
        input_ids_UL, mask_UL = self._tokens_UL
        text_of_B = self._text_of_N[positions_B]
        mask_BL = mask_UL[text_of_B]
        longest = max(1, int(mask_BL.sum(dim=1).max()))
        return Batch(
            self._read_images(rows_B),
            input_ids_UL[text_of_B, :longest],
            mask_BL[:, :longest],
            self.labels_NY[positions_B],
            [self.patient_ids[row] for row in rows_B.tolist()],
            [self.study_ids[row] for row in rows_B.tolist()],
        )

    def _read_images(self, rows_B: npt.NDArray[np.int64]) -> Tensor:
        if len(self._images) == 1:
            return self._images[0].read(rows_B)
        member_B = np.searchsorted(self._first_N, rows_B, side="right") - 1
        parts = [np.flatnonzero(member_B == member) for member in range(len(self._images))]
        read = [
            images.read(rows_B[part] - self._first_N[member])
            for member, (images, part) in enumerate(zip(self._images, parts, strict=True))
            if len(part)
        ]
        order = torch.from_numpy(np.argsort(np.concatenate(parts), kind="stable"))
        return torch.cat(read)[order]


def concatenate(datasets: Sequence[SiteDataset]) -> SiteDataset:
    """Pool sites, one after the other; a single one is returned as it is.

    Raises:
        ConfigError: there is none, or they differ in label space or text length.
    """
    if not datasets:
        raise ConfigError("there is no site to pool")
    first = datasets[0]
    if len(datasets) == 1:
        return first
    for other in datasets[1:]:
        if other.label_space != first.label_space:
            raise ConfigError("sites with different label spaces cannot be pooled; build them with their union")
        if other._tokens_UL[0].shape[1] != first._tokens_UL[0].shape[1]:
            raise ConfigError("sites with different max_tokens cannot be pooled")
    offsets = np.cumsum([0, *(len(dataset._tokens_UL[0]) for dataset in datasets)]).tolist()
    left_out: dict[str, int] = {}
    for dataset in datasets:
        for reason, count in dataset.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
    return SiteDataset(
        images=[images for dataset in datasets for images in dataset._images],
        counts=[count for dataset in datasets for count in dataset._counts],
        tokens_UL=(
            torch.cat([dataset._tokens_UL[0] for dataset in datasets]),
            torch.cat([dataset._tokens_UL[1] for dataset in datasets]),
        ),
        text_of_N=torch.cat([d._text_of_N + offset for d, offset in zip(datasets, offsets, strict=False)]),
        labels_NY=torch.cat([dataset.labels_NY for dataset in datasets]),
        patient_ids=[patient for dataset in datasets for patient in dataset.patient_ids],
        study_ids=[study for dataset in datasets for study in dataset.study_ids],
        label_space=first.label_space,
        left_out=left_out,
        notes={key: value for dataset in reversed(datasets) for key, value in dataset.notes.items()},
    )


def build_dataset(
    config: DatasetConfig,
    split: str,
    *,
    label_space: LabelSpace,
    image_size: int,
    tokenizer: Tokenizer,
    max_tokens: int,
    cache: Path,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
    channels: int = 3,
    data_root: str | Path | None = None,
) -> SiteDataset:
    """One split of a site, ready to train or evaluate on. Decodes the images if the cache does not hold them.

    Args:
        config: the site's data.
        split: ``train``, ``validation`` or ``test``.
        label_space: the federation's space (the union of its sites' spaces).
        image_size: width and height of the model's images.
        tokenizer: see :func:`medvlmoe.data.load_tokenizer`.
        max_tokens: longest text, in tokens.
        cache: folder of decoded images.
        mean: the backbone's mean in 0..1, one value or one for each channel.
        std: the backbone's standard deviation.
        channels: channels of the model's images, 1 or 3; grey images are repeated.
        data_root: folder that the site's relative root is taken from.

    Raises:
        DataError: files are missing or malformed, or the split is empty.
        ConfigError: the configuration contradicts the files or the label space.
    """
    if split not in SPLITS:
        raise ConfigError(f"split '{split}': use one of {', '.join(SPLITS)}")
    if channels not in (1, 3):
        raise ConfigError(f"channels={channels}: use 1 or 3")
    index = load_index(config, data_root)
    index = index.take(np.flatnonzero(index.splits == split))
    _refuse_empty(index, split)
    decoded = decoded_images(
        index.images,
        size=image_size,
        channels=1 if index.grayscale else channels,
        folder=Path(cache),
        skip_bad=config.on_bad_image == "skip",
    )
    bad = np.zeros(len(index), dtype=bool)
    bad[list(decoded.bad)] = True
    index = index.leave_out("unreadable image", bad)
    _refuse_empty(index, split)
    texts = list(dict.fromkeys(index.texts))
    place = {text: number for number, text in enumerate(texts)}
    labels_NY = torch.full((len(index), len(label_space)), float("nan"))
    labels_NY[:, label_space.positions_of(index.label_space)] = torch.from_numpy(index.labels_NY)
    images = MappedImages(
        decoded.path, np.flatnonzero(~bad), channels, _per_channel(mean, channels), _per_channel(std, channels)
    )
    return SiteDataset(
        images=[images],
        counts=[len(index)],
        tokens_UL=tokenizer.encode(texts, max_tokens),
        text_of_N=torch.tensor([place[text] for text in index.texts]),
        labels_NY=labels_NY,
        patient_ids=index.patient_ids,
        study_ids=index.study_ids,
        label_space=label_space,
        left_out=index.left_out,
        notes=index.notes,
    )


def _refuse_empty(index: SiteIndex, split: str) -> None:
    if len(index) == 0:
        raise DataError(
            f"{index.root}: the {split} split is empty{index.left_out_words()}; a site needs all three: more patients, "
            "another validation_fraction or test_fraction, or split=patient"
        )


def _per_channel(value: float | Sequence[float], channels: int) -> Sequence[float]:
    return [float(value)] * channels if isinstance(value, int | float) else list(value)
