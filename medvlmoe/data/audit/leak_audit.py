"""How well a site's text alone tells its labels. Shape suffixes: N records, Y labels, F folds.

Two numbers, for two questions:

- *Does the text leak?* A text-only head is cross-validated over all of the site's patients, whatever their split: a
  hospital of 200 images has 40 in its test split, too few to tell a leak from luck. The text leaks if the lower bound
  of the 95 % interval of the mean AUC (bootstrap over patients) is above the threshold, or that of one label's AUC
  above a higher one.
- *What would the text alone give in the results table?* The head fitted on the train split, on the test split.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medvlmoe.data.audit.config import LeakAuditConfig
from medvlmoe.data.audit.reported import LEAKS, PASSES, SUSPICIOUS, TOO_FEW, VERDICTS
from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders.registry import load_index, site_terms
from medvlmoe.data.split import TEST, TRAIN, patient_positions
from medvlmoe.errors import LeakError
from medvlmoe.training.bootstrap import mean_area_interval
from medvlmoe.training.metrics import RankedLabel

if TYPE_CHECKING:
    from medvlmoe.data.audit.text_head import TextHead

_FOLDS = 5
_MOST_RECORDS = 8_000  # enough for an interval of a few hundredths; fitted in seconds
_FEWEST_PATIENTS = 10  # of either class, for a label to count in the verdict
_FEWEST_TO_SHARE_A_WORD = 5
_RESAMPLES = 500
_FOLD_SALT, _SAMPLE_SALT = "medvlmoe leak audit fold", "medvlmoe leak audit sample"


@dataclass(frozen=True, kw_only=True)
class LeakAudit:
    """What was found at one site.

    Attributes:
        auc: mean area under the ROC curve of the cross-validated head over the labels that count; ``None`` without
            any.
        auc_ci: its 95 % bootstrap interval over patients; ``None`` without one.
        labels_averaged: how many labels count: those with ten patients of either class.
        per_label: cross-validated area of every label; ``None`` where one class is missing.
        told: labels that the text gives away each by itself; names that stay at the site.
        threshold: mean AUC above which the text leaks.
        test_auc: mean area on the test split of the head fitted on the train split, as in the table of results.
        test_auc_ci: its 95 % bootstrap interval over patients.
        test_labels_averaged: labels with both classes in the test split.
    """

    auc: float | None
    auc_ci: tuple[float, float] | None
    labels_averaged: int
    per_label: dict[str, float | None]
    threshold: float
    test_auc: float | None
    test_auc_ci: tuple[float, float] | None
    test_labels_averaged: int
    told: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """``passes``; ``leaks``; ``suspicious`` (above the threshold, the interval not); ``too few patients``."""
        if self.auc is None:
            return TOO_FEW
        if self.told:
            return LEAKS
        if self.auc <= self.threshold:
            return PASSES
        return LEAKS if self.auc_ci is not None and self.auc_ci[0] > self.threshold else SUSPICIOUS

    def words(self) -> str:
        """The finding in words."""
        if self.auc is None:
            return "too few patients to tell whether the text leaks its labels"
        interval = "" if self.auc_ci is None else f" [{self.auc_ci[0]:.3f}, {self.auc_ci[1]:.3f}]"
        told = f", and gives away {', '.join(self.told)}" if self.told else ""
        return (
            f"the text alone predicts the labels with a mean AUC of {self.auc:.3f}{interval} "
            f"(labels: {self.labels_averaged}, threshold {self.threshold}){told}"
        )

    def to_numbers(self) -> dict[str, float]:
        """All that leaves a site: numbers, by name; those that are not defined are left out."""
        low, high = self.auc_ci or (None, None)
        test_low, test_high = self.test_auc_ci or (None, None)
        found = {
            "auc": self.auc,
            "auc_low": low,
            "auc_high": high,
            "labels_averaged": self.labels_averaged,
            "verdict": VERDICTS.index(self.verdict),
            "test_auc": self.test_auc,
            "test_auc_low": test_low,
            "test_auc_high": test_high,
            "test_labels_averaged": self.test_labels_averaged,
        }
        return {f"text_only/{name}": float(value) for name, value in found.items() if value is not None}


def audit_site(config: DatasetConfig, audit: LeakAuditConfig, data_root: str | Path | None = None) -> LeakAudit:
    """Audit a site's text. Takes seconds: of a large site a part of the patients is looked at, always the same.

    Raises:
        DataError, ConfigError: as :func:`medvlmoe.data.load_index`.
    """
    index, terms = load_index(config, data_root), site_terms(config, data_root)
    return audit_index(index, terms, threshold_of(config, audit), audit.threshold_label)


def threshold_of(config: DatasetConfig, audit: LeakAuditConfig) -> float:
    """The mean AUC above which a site's text leaks."""
    return audit.threshold_mimic_cxr if config.kind == "mimic_cxr" else audit.threshold


def refuse_leak(found: LeakAudit) -> None:
    """Raises LeakError if the text leaks."""
    if found.verdict == LEAKS:
        raise LeakError(
            f"{found.words()}: it leaks them, so that results would say nothing about the images; find the cause with "
            "`medvlmoe data audit`, or set text=none; leak_audit.action=warn goes on and stamps every result LEAKY"
        )


def audit_index(
    index: SiteIndex, terms: Mapping[str, re.Pattern[str]], threshold: float, label_threshold: float
) -> LeakAudit:
    """Audit the records of an index.

    Args:
        index: the site's records.
        terms: as for :class:`medvlmoe.data.audit.text_head.TextHead`.
        threshold: mean AUC above which the text leaks.
        label_threshold: AUC of one label above which it does.
    """
    space = index.label_space
    sample = index.take(sample_of(index.patient_ids, np.arange(len(index))))
    texts, labels_NY = list(sample.texts), sample.labels_NY
    scores_NY = _cross_validated(texts, labels_NY, sample.patient_ids, space, terms)
    ranked = {label: RankedLabel(scores_NY[:, y], _rounded(labels_NY[:, y])) for y, label in enumerate(space.labels)}
    names = [name for y, name in enumerate(space.labels) if _enough_patients(labels_NY[:, y], sample.patient_ids)]
    counting = [ranked[name] for name in names]
    auc, auc_ci = _mean_area(counting, sample.patient_ids)
    told = tuple(name for name in names if _is_surely_above(ranked[name], sample.patient_ids, label_threshold))
    test = index.take(np.flatnonzero(index.splits == TEST))
    test_scores_NY = _test_scores(index, list(test.texts), terms)
    tested = [
        label for y in range(len(space)) if (label := RankedLabel(test_scores_NY[:, y], test.labels_NY[:, y])).defined
    ]
    test_auc, test_auc_ci = _mean_area(tested, test.patient_ids)
    return LeakAudit(
        auc=auc,
        auc_ci=auc_ci,
        labels_averaged=len(counting),
        per_label={name: label.area() for name, label in ranked.items()},
        threshold=threshold,
        test_auc=test_auc,
        test_auc_ci=test_auc_ci,
        test_labels_averaged=len(tested),
        told=told,
    )


def strongest_words(index: SiteIndex, terms: Mapping[str, re.Pattern[str]]) -> dict[str, list[str]]:
    """For each label the words that speak most for it; never one that fewer than five patients share.

    A label's own terms appear as ``[label]``. They are a site's words: they must not leave it.
    """
    sample = index.take(sample_of(index.patient_ids, np.arange(len(index))))
    texts = list(sample.texts)
    if len(set(texts)) == 1:
        return {}
    head = _text_head(index.label_space, terms).fit(texts, sample.labels_NY)
    return head.strongest_words(texts, sample.patient_ids, _FEWEST_TO_SHARE_A_WORD)


def sample_of(patient_ids: Sequence[str], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of ``rows`` at most ``_MOST_RECORDS``, whole patients, chosen by the patients' ids alone; in order."""
    if len(rows) <= _MOST_RECORDS:
        return rows
    position = patient_positions([patient_ids[row] for row in rows.tolist()], _SAMPLE_SALT)
    limit = np.sort(position)[_MOST_RECORDS]
    return rows[position < limit]


def _text_head(space: LabelSpace, terms: Mapping[str, re.Pattern[str]]) -> "TextHead":
    # Here: a site imports this module at every message, and scikit-learn takes half a second.
    from medvlmoe.data.audit.text_head import TextHead

    return TextHead(space, terms)


def _cross_validated(
    texts: Sequence[str],
    labels_NY: npt.NDArray[np.floating],
    patient_ids: Sequence[str],
    space: LabelSpace,
    terms: Mapping[str, re.Pattern[str]],
) -> npt.NDArray[np.float64]:
    """Scores of every record by a head that has not seen its patient, N x Y."""
    scores_NY = np.zeros(labels_NY.shape)
    if len(set(texts)) == 1:
        return scores_NY  # all tie: an area of exactly one half
    fold_N = (patient_positions(patient_ids, _FOLD_SALT) * _FOLDS).astype(np.int64)
    for fold in np.unique(fold_N):
        seen, unseen = np.flatnonzero(fold_N != fold).tolist(), np.flatnonzero(fold_N == fold).tolist()
        if seen:
            head = _text_head(space, terms).fit([texts[row] for row in seen], labels_NY[seen])
            scores_NY[unseen] = head.scores([texts[row] for row in unseen])
    return scores_NY


def _test_scores(
    index: SiteIndex, test_texts: Sequence[str], terms: Mapping[str, re.Pattern[str]]
) -> npt.NDArray[np.float64]:
    """Scores of the test records by a head that has seen the train split, N x Y."""
    train = index.take(sample_of(index.patient_ids, np.flatnonzero(index.splits == TRAIN)))
    train_texts = list(train.texts)
    if not test_texts or len({*train_texts, *test_texts}) == 1:
        return np.zeros((len(test_texts), len(index.label_space)))
    return _text_head(index.label_space, terms).fit(train_texts, train.labels_NY).scores(test_texts)


def _mean_area(
    labels: Sequence[RankedLabel], patient_ids: Sequence[str]
) -> tuple[float | None, tuple[float, float] | None]:
    """Mean area of labels that have both classes, and its interval."""
    areas = [area for label in labels if (area := label.area()) is not None]
    interval = mean_area_interval(labels, patient_ids, resamples=_RESAMPLES, seed=0)
    return (math.fsum(areas) / len(areas) if areas else None), interval


def _is_surely_above(label: RankedLabel, patient_ids: Sequence[str], threshold: float) -> bool:
    area = label.area()
    if area is None or area <= threshold:
        return False
    interval = mean_area_interval([label], patient_ids, resamples=_RESAMPLES, seed=0)
    return interval is not None and interval[0] > threshold


def _enough_patients(labels_N: npt.NDArray[np.floating], patient_ids: Sequence[str]) -> bool:
    sides = ({patient_ids[row] for row in np.flatnonzero(labels_N > 0.5).tolist()},
             {patient_ids[row] for row in np.flatnonzero(labels_N <= 0.5).tolist()})  # fmt: skip
    return min(map(len, sides)) >= _FEWEST_PATIENTS


def _rounded(labels_N: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.where(np.isnan(labels_N), np.nan, labels_N > 0.5)
