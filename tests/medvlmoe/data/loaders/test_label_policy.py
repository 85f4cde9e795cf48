import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medvlmoe.data import DatasetConfig
from medvlmoe.data.config import UNCERTAIN_POLICIES
from medvlmoe.data.known_labels import CHEXPERT, CHEXPERT_COMPETITION
from medvlmoe.data.loaders.label_policy import resolve_blank, resolve_uncertain

NAMES = [f"image {row}" for row in range(6)]
CODES = arrays.arrays(np.float32, (6, 14), elements=st.sampled_from([1.0, 0.0, -1.0, np.nan]))


def resolved(codes, uncertain: str, names=NAMES, **config):
    return resolve_uncertain(
        codes, CHEXPERT, names, DatasetConfig(kind="chexpert", root="", uncertain=uncertain, **config)
    )


@given(CODES, st.sampled_from(UNCERTAIN_POLICIES))
def test_only_uncertain_labels_change_and_the_codes_stay_as_they_are(codes, policy):
    before = codes.copy()
    labels = resolved(codes, policy)
    np.testing.assert_array_equal(codes, before)
    np.testing.assert_array_equal(labels[codes != -1], codes[codes != -1])
    assert not (labels < 0).any()


@pytest.mark.parametrize(("policy", "value"), [("zeros", 0), ("ones", 1), ("ignore", np.nan)])
def test_constant_policies(policy, value):
    np.testing.assert_array_equal(resolved(np.full((6, 14), -1, np.float32), policy), np.full((6, 14), value))


def test_irvin5_takes_the_best_binary_policy_of_each_competition_label():
    row = resolved(np.full((6, 14), -1, np.float32), "irvin5")[0]
    ones = {label for label, value in zip(CHEXPERT, row, strict=True) if value == 1}
    assert ones == {"Atelectasis", "Edema"}
    assert ones < set(CHEXPERT_COMPETITION)
    assert set(row.tolist()) == {0, 1}


@given(CODES, st.permutations(range(6)), st.integers(0, 5))
def test_soft_targets_depend_on_seed_record_and_label_alone(codes, order, seed):
    labels = resolved(codes, "lsr", label_seed=seed)
    soft = labels[codes == -1]
    assert ((soft >= 0.55) & (soft <= 0.85)).all()
    moved = resolved(codes[order], "lsr", [NAMES[row] for row in order], label_seed=seed)
    np.testing.assert_array_equal(moved, labels[order])


def test_soft_targets_are_spread_and_differ_by_seed():
    names = [f"image {row}" for row in range(500)]
    first, second = (resolved(np.full((500, 14), -1, np.float32), "lsr", names, label_seed=seed) for seed in (0, 1))
    assert not (first == second).any()
    assert abs(first.mean() - 0.7) < 0.005
    assert abs(first.std() - 0.3 / 12**0.5) < 0.005
    assert len(np.unique(first)) > 6_900


def test_blank():
    codes = np.array([[np.nan, -1, 1, 0]], np.float32)
    zeros, ignored = (
        resolve_blank(codes, DatasetConfig(kind="chexpert", root="", blank=policy)) for policy in ("zeros", "ignore")
    )
    np.testing.assert_array_equal(zeros, [[0, -1, 1, 0]])
    np.testing.assert_array_equal(ignored, codes)
