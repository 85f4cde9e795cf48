"""What a site has, before any image is opened. Shape suffixes: N records, Y labels of the site's own space."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.demographics import Demographics
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.split import TRAIN, VALIDATION, assign_splits, cut_validation, partition_of, shared_patient
from medvlmoe.errors import DataError

NOT_ON_DISK = "image not on disk"
"""Why records are left out with ``allow_subset``."""


class ImageSource(Protocol):
    """Images that can be decoded one by one."""

    def __len__(self) -> int: ...

    def take(self, rows: npt.NDArray[np.int64]) -> "ImageSource":
        """The images at these positions."""

    def fingerprints(self) -> Iterator[str]:
        """For each image a line that changes when its file changes."""

    def decode(self, position: int, shape: ImageShape) -> npt.NDArray[np.uint8]:
        """One image as uint8 of ``shape.dimensions``. Raises DataError if it cannot be read."""


class LazyTexts(Sequence[str], ABC):
    """Texts that cost a file each: only those that are asked for are read."""

    @abstractmethod
    def take(self, rows: npt.NDArray[np.int64]) -> "LazyTexts":
        """The texts at these positions, still unread."""


@dataclass(frozen=True, kw_only=True)
class SiteIndex:
    """The records of one site as columns.

    Attributes:
        root: the site's folder, to name it in messages.
        images: N images, not opened yet.
        labels_NY: float32, 0, 1 or NaN (unknown), in training also soft targets between; one-hot for classes.
        patient_ids: N patients.
        study_ids: N studies.
        texts: N texts for the model; a :class:`LazyTexts` reads them when they are asked for.
        splits: N of ``train``, ``validation``, ``test``.
        tells_patients: whether ``patient_ids`` are of patients; otherwise every image is its own.
        label_space: the site's own labels.
        grayscale: whether the images have no colour, so that one channel is kept.
        left_out: reason -> number of records left out, of the whole data set where several hospitals share it.
        notes: facts worth a line in a result file, such as the version of the labels.
        demographics: age, sex and view of N records; ``None`` where the site tells nothing of its patients.
    """

    root: Path
    images: ImageSource
    labels_NY: npt.NDArray[np.float32]
    patient_ids: list[str]
    study_ids: list[str]
    texts: Sequence[str]
    splits: npt.NDArray[np.str_]
    label_space: LabelSpace
    grayscale: bool
    tells_patients: bool = True
    left_out: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    demographics: Demographics | None = None

    def __len__(self) -> int:
        return len(self.patient_ids)

    def take(self, rows: npt.NDArray[np.int64]) -> "SiteIndex":
        """The records at these positions, in this order."""
        return replace(
            self,
            images=self.images.take(rows),
            labels_NY=self.labels_NY[rows],
            patient_ids=[self.patient_ids[row] for row in rows.tolist()],
            study_ids=[self.study_ids[row] for row in rows.tolist()],
            texts=(
                self.texts.take(rows)
                if isinstance(self.texts, LazyTexts)
                else [self.texts[row] for row in rows.tolist()]
            ),
            splits=self.splits[rows],
            demographics=None if self.demographics is None else self.demographics.take(rows),
        )

    def left_out_words(self) -> str:
        """What was left out, as the end of a message; empty if nothing was."""
        counts = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        return f" (left out: {counts})" if counts else ""

    def leave_out(self, reason: str, dropped: npt.NDArray[np.bool_]) -> "SiteIndex":
        """Without the marked records, which are counted under ``reason``."""
        count = int(dropped.sum())
        if count == 0:
            return self
        kept = self.take(np.flatnonzero(~dropped))
        return replace(kept, left_out={**self.left_out, reason: self.left_out.get(reason, 0) + count})


def arrange(index: SiteIndex, config: DatasetConfig) -> SiteIndex:
    """Cut the splits, take the hospital's share, drop records without any label, and check what is left.

    Raises:
        DataError: a patient is in two splits, or the site is empty or cannot be learned from.
    """
    index = index.leave_out("no known label", np.asarray(np.isnan(index.labels_NY).all(axis=1)))
    if config.split == "patient":
        splits = assign_splits(index.patient_ids, config.validation_fraction, config.test_fraction)
    else:
        shared = shared_patient(index.patient_ids, index.splits)
        if shared is not None:
            raise DataError(
                f"{index.root}: patient {shared} is in more than one split, so its results would be too good; "
                "mend the table or set split=patient"
            )
        splits = index.splits
        if not (splits == VALIDATION).any():
            splits = cut_validation(index.patient_ids, splits, config.validation_fraction)
    index = replace(index, splits=splits, labels_NY=_without_soft_targets(index.labels_NY, splits))
    index = index.leave_out("no known label", np.asarray(np.isnan(index.labels_NY).all(axis=1)))
    share = partition_of(index.patient_ids, config.partition_count) == config.partition_index
    index = index.take(np.flatnonzero(share))
    _check(index, config)
    return index


def _without_soft_targets(labels_NY: npt.NDArray[np.float32], splits: npt.NDArray[np.str_]) -> npt.NDArray[np.float32]:
    """Outside training a soft target (label smoothing of an uncertain label) is unknown: no metric may count it."""
    soft_NY = (labels_NY > 0) & (labels_NY < 1) & (splits != TRAIN)[:, None]
    return np.where(soft_NY, np.float32("nan"), labels_NY) if soft_NY.any() else labels_NY


def _check(index: SiteIndex, config: DatasetConfig) -> None:
    where = f"{index.root}"
    if config.partition_count > 1:
        where += f" (share {config.partition_index} of {config.partition_count})"
    left_out = index.left_out_words()
    if len(index) == 0:
        raise DataError(f"{where}: the site is empty, it has no record to use{left_out}")
    training = index.splits == TRAIN
    if not training.any():
        mend = "a site needs more patients" if config.split == "patient" else "mend the table or set split=patient"
        raise DataError(f"{where}: no record is in the train split{left_out}; {mend}")
    labels_NY = index.labels_NY[training]
    positive, negative = (labels_NY > 0.5).any(axis=0), (labels_NY <= 0.5).any(axis=0)
    exclusive = any(block.exclusive for block in index.label_space.blocks)
    if exclusive and positive.sum() < 2:
        only = index.label_space.labels[int(positive.argmax())]
        raise DataError(f"{where}: all {len(labels_NY)} training records have the class '{only}'; nothing to learn")
    if not exclusive and not (positive & negative).any():
        raise DataError(f"{where}: no label has both a positive and a negative training record; nothing to learn")
