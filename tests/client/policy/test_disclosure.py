"""No number leaves that stands for too few patients."""

import math
from types import SimpleNamespace

import pytest
import torch

from client.policy import PolicyRefusalError, SitePolicy
from client.policy.disclosure import check_cohort, released_labels, released_metrics, released_routes
from strategies import error_codes

NAN = math.nan


class Records(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.patient_ids)


# Ten records of four patients; label 0 is known for all, label 1 for patients a and b, label 2 for nobody.
TEN = Records(
    patient_ids=list("aaaabbbccd"),
    labels_NY=torch.tensor([[1.0, 1.0 if row < 7 else NAN, NAN] for row in range(10)]),
)


@pytest.mark.parametrize(
    ("policy", "enough"),
    [
        ({"min_examples": 10}, True),
        ({"min_examples": 11}, False),
        ({"min_patients": 4}, True),
        ({"min_patients": 5}, False),
    ],
)
def test_cohorts(policy: dict[str, int], enough: bool) -> None:
    if enough:
        check_cohort(SitePolicy(**policy), TEN)  # type: ignore[arg-type]
        return
    with pytest.raises(PolicyRefusalError) as refusal:
        check_cohort(SitePolicy(**policy), TEN)  # type: ignore[arg-type]
    assert refusal.value.code == error_codes.COHORT_TOO_SMALL


def test_only_metrics_on_the_list_leave() -> None:
    metrics = {"train_loss": 0.5, "validation_auc": 0.7, "validation_n": 10}
    policy = SitePolicy(metrics=["train_*", "validation_auc"])
    assert released_metrics(policy, metrics, TEN) == {"train_loss": 0.5, "validation_auc": 0.7}  # type: ignore[arg-type]
    assert released_metrics(SitePolicy(), metrics, TEN) == metrics  # type: ignore[arg-type]


def test_none_of_a_split_with_too_few_patients() -> None:
    assert released_metrics(SitePolicy(min_cell=4), {"test/auc": 0.7}, TEN) == {"test/auc": 0.7}  # type: ignore[arg-type]
    assert released_metrics(SitePolicy(min_cell=5), {"test/auc": 0.7}, TEN) == {}  # type: ignore[arg-type]


def test_a_stamp_always_leaves() -> None:
    policy = SitePolicy(metrics=[], min_cell=1000)
    assert released_metrics(policy, {"stamp/LEAKY": 1.0, "stamp/X": 1.0}, TEN) == {"stamp/LEAKY": 1.0}  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "leaves"), [(0.0, True), (2.0, False), (3.0, True)])
def test_small_counts_of_records_do_not_leave(count: float, leaves: bool) -> None:
    assert ("left_out" in released_metrics(SitePolicy(min_cell=3), {"left_out": count}, TEN)) is leaves  # type: ignore[arg-type]


def test_labels_known_for_too_few_patients_are_withheld() -> None:
    observed = torch.tensor([20.0, 14.0, 0.0])
    assert released_labels(SitePolicy(min_cell=2), observed, TEN).tolist() == [20.0, 14.0, 0.0]  # type: ignore[arg-type]
    assert released_labels(SitePolicy(min_cell=3), observed, TEN).tolist() == [20.0, 0.0, 0.0]  # type: ignore[arg-type]
    assert released_labels(SitePolicy(), observed, TEN) is observed  # type: ignore[arg-type]


def test_experts_of_too_few_samples_are_withheld() -> None:
    routed = torch.tensor([20.0, 8.0, 0.0])
    assert released_routes(SitePolicy(min_cell=5), routed, epochs=1).tolist() == [20.0, 8.0, 0.0]
    assert released_routes(SitePolicy(min_cell=5), routed, epochs=2).tolist() == [20.0, 0.0, 0.0]
