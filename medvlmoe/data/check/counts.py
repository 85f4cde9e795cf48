"""Counts of a site's parts. N records, Y labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

VALUES = ("positive", "negative", "uncertain", "blank")
NO_FINDING = "No Finding"


@dataclass(frozen=True, kw_only=True)
class PartCounts:
    """One part of a data set, or all of it; ``None`` and absent keys: not known, or nothing published.

    Attributes:
        images: records.
        studies: different studies.
        patients: different patients.
        labels: ``positive``, ``negative``, ``uncertain``, ``blank`` -> label -> how many images have it so.
        by_study: labels are counted once a study instead.
        at_least: the published label counts are lower bounds.
        separate: the part is a download of its own that may be left out.
    """

    images: int | None = None
    studies: int | None = None
    patients: int | None = None
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    by_study: bool = False
    at_least: bool = False
    separate: bool = False


@dataclass(frozen=True, kw_only=True)
class SiteCounts:
    """A whole data set.

    Attributes:
        parts: counts by part; ``all`` is the whole.
        facts: further counts by name.
    """

    parts: dict[str, PartCounts]
    facts: dict[str, int] = field(default_factory=dict)


def count_part(
    codes_NY: npt.NDArray[np.float32],
    labels: Sequence[str],
    study_ids: Sequence[str],
    patient_ids: Sequence[str],
    listed_N: npt.NDArray[np.bool_],
    *,
    by_study: bool = False,
) -> PartCounts:
    """Counts of some records.

    Args:
        codes_NY: 1, 0, -1 (uncertain) or NaN (blank).
        labels: Y names.
        study_ids: N studies.
        patient_ids: N patients.
        listed_N: records that are an image, not the placeholder of a study without any.
        by_study: count labels once a study.
    """
    if by_study:
        codes_NY = codes_NY[list({study: row for row, study in reversed(list(enumerate(study_ids)))}.values())]
    counted = {
        "positive": (codes_NY == 1).sum(axis=0),
        "negative": (codes_NY == 0).sum(axis=0),
        "uncertain": (codes_NY == -1).sum(axis=0),
        "blank": np.isnan(codes_NY).sum(axis=0),
    }
    by_value = {value: dict(zip(labels, counts.tolist(), strict=True)) for value, counts in counted.items()}
    if NO_FINDING not in labels:
        by_value["positive"][NO_FINDING] = int((codes_NY == 0).all(axis=1).sum())
    return PartCounts(
        images=int(listed_N.sum()),
        studies=len(set(study_ids)),
        patients=len(set(patient_ids)),
        labels=by_value,
        by_study=by_study,
    )
