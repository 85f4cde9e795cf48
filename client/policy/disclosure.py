"""Numbers that leave a site: which may, and none that stands for too few patients.

Shape suffixes: K experts, Y labels, N records.
"""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch

from client.policy.config import SitePolicy
from client.policy.refusal import PolicyRefusalError
from medvlmoe import stamps
from medvlmoe.data import SiteDataset
from strategies import error_codes
from strategies.messages import Metric
from strategies.weights import GroupWeights

_COUNTS = ("left_out",)  # a number of records; every other metric is a mean over a split, or a number about training


def check_cohort(policy: SitePolicy, train: SiteDataset) -> None:
    """There must be enough to hide in.

    Raises:
        PolicyRefusalError: too few training examples or patients.
    """
    for name, count in (("min_examples", len(train)), ("min_patients", len(set(train.patient_ids)))):
        if count < getattr(policy, name):
            raise PolicyRefusalError(
                error_codes.COHORT_TOO_SMALL, f"policy.{name}={getattr(policy, name)}: there are {count}"
            )


def released_metrics(policy: SitePolicy, metrics: Mapping[str, Metric], dataset: SiteDataset) -> dict[str, Metric]:
    """The metrics of one split that may leave.

    None may if the split has fewer than ``policy.min_cell`` patients. A count of records below it is left out.
    Stamps always leave: they tell nothing of a patient, and a result without them would be read as what it is not.
    """
    tainted = {name: value for name, value in metrics.items() if name in stamps.to_numbers(stamps.MEANINGS)}
    if len(set(dataset.patient_ids)) < policy.min_cell:
        return tainted
    return tainted | {
        name: value
        for name, value in metrics.items()
        if any(fnmatchcase(name, pattern) for pattern in policy.metrics) and not _small_count(policy, name, value)
    }


def released_labels(policy: SitePolicy, observed_labels_Y: torch.Tensor, train: SiteDataset) -> torch.Tensor:
    """The counts of known labels, 0 where fewer than ``policy.min_cell`` patients have a known value."""
    if policy.min_cell <= 1:
        return observed_labels_Y
    known_NY = ~train.labels_NY.isnan()
    patients = {patient: number for number, patient in enumerate(dict.fromkeys(train.patient_ids))}
    patient_N = torch.tensor([patients[patient] for patient in train.patient_ids])
    patients_Y = torch.tensor([len(patient_N[known_N].unique()) for known_N in known_NY.T])
    return torch.where(patients_Y >= policy.min_cell, observed_labels_Y, 0.0)


def released_routes(policy: SitePolicy, routed_samples_K: torch.Tensor, epochs: int) -> torch.Tensor:
    """The routed samples of each expert, 0 where they are fewer than ``policy.min_cell`` an epoch."""
    return torch.where(routed_samples_K / epochs >= policy.min_cell, routed_samples_K, 0.0)


def released_rows(policy: SitePolicy, routed_samples_K: torch.Tensor, observed_labels_Y: torch.Tensor) -> GroupWeights:
    """1 for the parts of an update that may leave, 0 for those whose count is withheld: they travel unchanged."""
    if policy.min_cell <= 1:
        return GroupWeights(1.0, torch.ones_like(routed_samples_K), torch.ones_like(observed_labels_Y))
    return GroupWeights(1.0, (routed_samples_K > 0).double(), (observed_labels_Y > 0).double())


def _small_count(policy: SitePolicy, name: str, value: Metric) -> bool:
    return name in _COUNTS and not isinstance(value, list) and 0 < value < policy.min_cell and math.isfinite(value)
