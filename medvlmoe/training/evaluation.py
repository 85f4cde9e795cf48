"""What a trained model is worth on a set of rows. Shape suffixes: N rows, Y labels."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medvlmoe.data.known_labels import SUBSETS
from medvlmoe.data.labels import LabelSpace
from medvlmoe.training.bootstrap import mean_area_interval
from medvlmoe.training.metrics import RankedLabel, accuracy, quadratic_kappa


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of one set.

    Attributes:
        n: rows.
        auc: mean area under the ROC curve over the labels that have both classes; classes of a multiclass or ordinal
            block count one against the rest, unweighted (MedMNIST's getAUC). ``None`` if no label has both.
        auc_ci: 95 % percentile bootstrap interval over patients; labels undefined in a resample are left out of it.
        labels_averaged: how many labels ``auc`` is a mean of.
        accuracy: share of rows whose highest score in their multiclass or ordinal block is right; ``None`` without one.
        quadratic_kappa: mean over the ordinal blocks; ``None`` without one.
        per_label: area of each label that has a known entry; ``None`` where only one class is there.
        loss: the training loss on these rows, without the balance loss; ``None`` without rows.
        subset_auc: mean area over part of the labels, where the rows know all labels that the subset belongs to:
            name of the :class:`medvlmoe.data.known_labels.LabelSubset` -> ``auc`` and ``labels_averaged``.
    """

    n: int
    auc: float | None
    auc_ci: tuple[float, float] | None
    labels_averaged: int
    accuracy: float | None
    quadratic_kappa: float | None
    per_label: dict[str, float | None]
    loss: float | None
    subset_auc: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as in ``summary.json``."""
        return asdict(self) | {"auc_ci": None if self.auc_ci is None else list(self.auc_ci)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Evaluation":
        """The inverse of :meth:`to_dict`; keys that it does not know (such as ``split``) are left out."""
        known = {name: values[name] for name in Evaluation.__dataclass_fields__ if name in values}
        interval = known["auc_ci"]
        return Evaluation(**known | {"auc_ci": None if interval is None else (interval[0], interval[1])})


def evaluate_scores(
    scores_NY: Tensor,
    labels_NY: Tensor,
    patient_ids: Sequence[str],
    space: LabelSpace,
    *,
    resamples: int,
    seed: int,
    loss: float | None = None,
    min_patients: int = 1,
) -> Evaluation:
    """Metrics of scores against labels.

    Args:
        scores_NY: probabilities.
        labels_NY: 0, 1 or NaN; one-hot inside a multiclass or ordinal block.
        patient_ids: N patient identifiers.
        space: the blocks of the Y axis.
        resamples: bootstrap resamples; 0 leaves the interval out.
        seed: of the bootstrap.
        loss: passed on.
        min_patients: a label with fewer positive or fewer negative patients has no part in ``auc`` and ``auc_ci``.
    """
    scores, labels = scores_NY.numpy(), labels_NY.numpy()
    ranked = {
        name: RankedLabel(scores[:, place], labels[:, place])
        for place, name in enumerate(space.labels)
        if not labels_NY[:, place].isnan().all()
    }
    per_label = {name: label.area() for name, label in ranked.items()}
    enough = {
        name: min_patients <= 1 or _fewest_patients(labels[:, place], patient_ids) >= min_patients
        for place, name in enumerate(space.labels)
    }
    counted = {name: area if enough[name] else None for name, area in per_label.items()}
    auc, labels_averaged = _mean(list(counted.values()))
    right = rows = 0
    kappas = []
    for block in (block for block in space.blocks if block.exclusive):
        columns = space.columns(block)
        block_right, block_rows = accuracy(scores[:, columns], labels[:, columns])
        right, rows = right + block_right, rows + block_rows
        if block.task == "ordinal":
            kappas.append(quadratic_kappa(scores[:, columns], labels[:, columns]))
    defined_kappas = [kappa for kappa in kappas if kappa is not None]
    return Evaluation(
        n=len(scores),
        auc=auc,
        auc_ci=mean_area_interval(
            [ranked[name] for name, area in counted.items() if area is not None],
            patient_ids,
            resamples=resamples,
            seed=seed,
        ),
        labels_averaged=labels_averaged,
        accuracy=right / rows if rows else None,
        quadratic_kappa=math.fsum(defined_kappas) / len(defined_kappas) if defined_kappas else None,
        per_label=per_label,
        loss=loss,
        subset_auc=_subset_means(counted),
    )


def _subset_means(per_label: dict[str, float | None]) -> dict[str, dict[str, float | None]]:
    means: dict[str, dict[str, float | None]] = {}
    for subset in SUBSETS:
        if all(label in per_label for label in subset.among):
            auc, count = _mean([per_label[label] for label in subset.labels])
            means[subset.name] = {"auc": auc, "labels_averaged": count}
    return means


def _mean(areas: list[float | None]) -> tuple[float | None, int]:
    """Mean of the defined areas, and how many they are."""
    defined = [area for area in areas if area is not None]
    return (math.fsum(defined) / len(defined) if defined else None), len(defined)


def _fewest_patients(labels_N: NDArray[np.floating], patient_ids: Sequence[str]) -> int:
    """Patients of the rarer class of one label."""
    classes = (labels_N > 0.5, labels_N <= 0.5)  # NaN is in neither
    return min(len({patient_ids[row] for row in np.flatnonzero(members).tolist()}) for members in classes)
