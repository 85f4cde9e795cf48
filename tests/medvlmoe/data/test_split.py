import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medvlmoe.data.split import assign_splits, cut_validation, partition_of, patient_position, shared_patient

PATIENTS = st.lists(st.text(max_size=6), min_size=1, max_size=50)


@given(PATIENTS, st.text(max_size=6))
def test_adding_a_patient_moves_nobody(patients, newcomer):
    before = assign_splits(patients, 0.1, 0.2)
    after = assign_splits([newcomer, *patients], 0.1, 0.2)
    assert (before == after[1:]).all()
    assert (partition_of(patients, 3) == partition_of([newcomer, *patients], 3)[1:]).all()


@given(PATIENTS)
def test_no_patient_is_in_two_parts(patients):
    twice = patients * 2
    assert shared_patient(twice, assign_splits(twice, 0.3, 0.3)) is None
    cut = cut_validation(twice, np.full(len(twice), "train"), 0.5)
    assert shared_patient(twice, cut) is None


def test_shares_are_as_asked_and_cuts_are_independent():
    patients = [str(number) for number in range(20_000)]
    splits = assign_splits(patients, 0.1, 0.2)
    shares = [float((splits == part).mean()) for part in ("train", "validation", "test")]
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.01)
    partition = partition_of(patients, 4)
    for part in range(4):
        chosen = partition == part
        assert abs(chosen.mean() - 0.25) < 0.01
        assert abs((splits[chosen] == "test").mean() - 0.2) < 0.02


def test_a_larger_test_part_keeps_the_smaller_one():
    patients = [str(number) for number in range(500)]
    small, large = (assign_splits(patients, 0.1, share) == "test" for share in (0.1, 0.3))
    assert (large[small]).all()


def test_the_hash_is_pinned():
    """A change here would move patients between training and test in every site that already runs."""
    assert patient_position("1", "medvlmoe part") == 0.9700892943434071


def test_validation_is_cut_from_train_only():
    patients = [str(number) for number in range(400)]
    splits = np.array(["train", "test"] * 200)
    cut = cut_validation(patients, splits, 0.25)
    assert (cut[1::2] == "test").all()
    assert 0.15 < (cut[::2] == "validation").mean() < 0.35


def test_a_patient_in_two_splits_is_found():
    assert shared_patient(["a", "b", "a"], np.array(["train", "train", "test"])) == "a"
