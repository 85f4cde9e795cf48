"""What a benchmark's index files say, and how it becomes a site's index. N records, Y labels."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.demographics import Demographics
from medvlmoe.data.images import ImageFiles
from medvlmoe.data.index import NOT_ON_DISK, LazyTexts, SiteIndex
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders.columns import missing_images
from medvlmoe.data.loaders.label_policy import resolve_blank, resolve_uncertain
from medvlmoe.data.problems import Problems

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Records:
    """The rows of the index files as they stand there: no policy applied, nothing left out.

    Attributes:
        names: N names of the images, as messages show them.
        files: N paths; an empty one is known not to be there.
        codes_NY: float32, 1, 0, -1 (uncertain) or NaN (blank).
        patient_ids: N patients.
        study_ids: N studies.
        splits: N of ``train``, ``validation``, ``test``, or empty where the official lists do not name the image.
        parts: N parts as the benchmark itself calls them, such as ``train_val``; empty as in ``splits``.
        left_out: reason -> records that the site does not use.
        unlisted: records that stand for a whole study, because its images are neither listed nor on disk.
        facts: further counts that tell a complete download, by name.
        notes: facts worth a line in a result file.
    """

    names: list[str]
    files: list[str]
    codes_NY: npt.NDArray[np.float32]
    patient_ids: list[str]
    study_ids: list[str]
    splits: npt.NDArray[np.str_]
    parts: npt.NDArray[np.str_]
    left_out: dict[str, Mask] = field(default_factory=dict)
    unlisted: Mask | None = None
    facts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def listed(self) -> Mask:
        """Records that are an image, and not a study without any."""
        return np.ones(len(self), dtype=bool) if self.unlisted is None else ~self.unlisted

    def present(self, rows: npt.NDArray[np.int64] | None = None) -> Mask:
        """Whether the images (at these positions) are on disk."""
        files = self.files if rows is None else [self.files[row] for row in rows.tolist()]
        return np.array([bool(file) and os.path.isfile(file) for file in files], dtype=bool)


def site_index(
    config: DatasetConfig,
    root: Path,
    space: LabelSpace,
    records: Records,
    texts: Sequence[str],
    problems: Problems,
    demographics: Demographics | None = None,
) -> SiteIndex:
    """The records that the site uses, with its policies applied.

    Args:
        config: the site's data.
        root: the site's folder.
        space: its Y labels.
        records: what its index files say.
        texts: N texts.
        problems: what is wrong with the index files.
        demographics: age, sex and view of N records.

    Raises:
        DataError: images are not on disk, and ``allow_subset`` is false.
    """
    left_out: dict[str, int] = {}
    used = np.ones(len(records), dtype=bool)
    for reason, mask in records.left_out.items():
        count = int((mask & used).sum())
        if count:
            left_out[reason] = count
        used &= ~mask
    rows = np.flatnonzero(used)
    present = records.present(rows)
    names = [records.names[row] for row in rows.tolist()]
    missing = missing_images(config, root, names, present, problems)
    if missing.any():
        left_out[NOT_ON_DISK] = int(missing.sum())
    rows = rows[~missing]
    kept = rows.tolist()
    codes_NY = resolve_blank(records.codes_NY[rows], config)
    return SiteIndex(
        root=root,
        images=ImageFiles([Path(records.files[row]) for row in kept]),
        labels_NY=resolve_uncertain(codes_NY, space.labels, [records.names[row] for row in kept], config),
        patient_ids=[records.patient_ids[row] for row in kept],
        study_ids=[records.study_ids[row] for row in kept],
        texts=texts.take(rows) if isinstance(texts, LazyTexts) else [texts[row] for row in kept],
        splits=records.splits[rows],
        label_space=space,
        grayscale=True,
        left_out=left_out,
        notes=records.notes,
        demographics=None if demographics is None else demographics.take(rows),
    )
