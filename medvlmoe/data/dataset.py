"""Data sets that give whole batches from memory-mapped images.

Shape suffixes: N records, B batch, C H W image, L tokens, U different texts, Y labels of the federation.
"""

import copy
import hashlib
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from medvlmoe.data.batch import Batch
from medvlmoe.data.demographics import Demographics
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.mapped_images import MappedImages
from medvlmoe.errors import ConfigError
from medvlmoe.seeds import derive_seed


class SiteDataset(Dataset[Batch]):
    """Records of one site and split, or of several sites pooled by :func:`concatenate`.

    Attributes:
        labels_NY: float32 in the federation's label space, NaN where unknown.
        patient_ids: N patients.
        tells_patients: whether they are known; otherwise every image is its own.
        study_ids: N studies.
        label_space: the federation's space, Y labels.
        left_out: reason -> number of the site's records that were left out (over all splits).
        notes: facts about the data worth a line in a result file.
        demographics: age, sex and view of N records, for results by subgroup; ``None`` where nothing is told.
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
        demographics: Demographics | None = None,
        tells_patients: bool = True,
    ) -> None:
        self._images, self._counts = list(images), list(counts)
        self._first_N = np.concatenate([[0], np.cumsum(self._counts)])
        self._tokens_UL, self._text_of_N = tokens_UL, text_of_N
        self.labels_NY = labels_NY
        self.patient_ids, self.study_ids = patient_ids, study_ids
        self.label_space, self.left_out, self.notes = label_space, left_out, notes
        self.demographics = demographics
        self.tells_patients = tells_patients
        self._training_epoch: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.patient_ids)

    def at_epoch(self, seed: int, epoch: int) -> "SiteDataset":
        """The same records as training sees them in an epoch: augmented, a row by ``seed``, ``epoch`` and its number.

        A data set that was not asked for by epoch, as in validation and testing, gives its images as they are.
        """
        view = copy.copy(self)
        view._training_epoch = (seed, epoch)
        return view

    def __getitem__(self, index: int) -> Batch:
        """A batch of one record."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The records at ``indices`` as one batch; its texts are cut to the longest of them."""
        rows_B = np.asarray(indices, dtype=np.int64)
        if len(rows_B) == 0 or rows_B.min() < 0 or rows_B.max() >= len(self):
            raise IndexError(f"batch indices must be in 0..{len(self) - 1}, and at least one")
        input_ids_BL, mask_BL = self.texts(indices)
        return Batch(
            self._read_images(rows_B),
            input_ids_BL,
            mask_BL,
            self.labels_NY[torch.from_numpy(rows_B)],
            [self.patient_ids[row] for row in rows_B.tolist()],
            [self.study_ids[row] for row in rows_B.tolist()],
        )

    def texts(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Token numbers and attention mask of the records at ``indices``, int64 B x L, cut to the longest of them."""
        input_ids_UL, mask_UL = self._tokens_UL
        text_of_B = self._text_of_N[torch.as_tensor(indices, dtype=torch.int64)]
        mask_BL = mask_UL[text_of_B]
        longest = max(1, int(mask_BL.sum(dim=1).max()))
        return input_ids_UL[text_of_B, :longest].to(torch.int64), mask_BL[:, :longest].to(torch.int64)

    def with_texts(self, tokens_UL: tuple[Tensor, Tensor], text_of_N: Tensor) -> "SiteDataset":
        """The same records with other texts.

        Args:
            tokens_UL: token numbers and attention mask of the U different texts.
            text_of_N: which of them each record has.
        """
        view = copy.copy(self)
        view._tokens_UL, view._text_of_N = tokens_UL, text_of_N
        return view

    def digest(self) -> str:
        """SHA-256 of the records: labels, patients, texts, what is told of them, and which images (not their pixels).

        An image counts as another if its file's size or time of change is another, as for the cache.
        """
        digest = hashlib.sha256()
        for images in self._images:
            digest.update(images.identity().encode() + b"\n")
        for tensor in (self.labels_NY, self._text_of_N, *self._tokens_UL):
            digest.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().numpy().data)
        told = [self.patient_ids, self.study_ids, self.left_out, self.notes, self.label_space.to_dict()]
        of_records = self.demographics and [self.demographics.age, self.demographics.sex, self.demographics.view]
        digest.update(json.dumps([told, of_records, self.tells_patients]).encode())
        return digest.hexdigest()

    def _read_images(self, rows_B: npt.NDArray[np.int64]) -> Tensor:
        seeds_B = None
        if self._training_epoch is not None:
            seed, epoch = self._training_epoch
            seeds_B = np.array([derive_seed(seed, "augmentation", epoch, row) for row in rows_B.tolist()])
        if len(self._images) == 1:
            return self._images[0].read(rows_B, seeds_B)
        member_B = np.searchsorted(self._first_N, rows_B, side="right") - 1
        parts = [np.flatnonzero(member_B == member) for member in range(len(self._images))]
        read = [
            images.read(rows_B[part] - self._first_N[member], None if seeds_B is None else seeds_B[part])
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
        demographics=Demographics.concatenate(
            [dataset.demographics or Demographics.unknown(len(dataset)) for dataset in datasets]
        ),
        tells_patients=all(dataset.tells_patients for dataset in datasets),
    )
