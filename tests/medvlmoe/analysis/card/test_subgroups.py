"""Results by subgroup equal those of the rows alone, and none is of too few patients."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medvlmoe.analysis.card.subgroups import Disclosure, results_of, withheld
from medvlmoe.data.demographics import Demographics
from medvlmoe.data.labels import LabelSpace
from medvlmoe.training.evaluation import evaluate_scores
from medvlmoe.training.predictions import Predictions

SPACE = LabelSpace.single("chest", "multilabel", ("Mass", "Edema"))
HOW = Disclosure(min_patients=10, resamples=20, seed=0)


def predictions(sexes: list[str], *, images: int = 2, demographics: bool = True, seed: int = 0) -> Predictions:
    """A patient for each sex given, with some images each."""
    generator = np.random.default_rng(seed)
    rows = [patient for patient in range(len(sexes)) for _ in range(images)]
    labels = (generator.random((len(rows), 2)) < 0.5).astype(np.float32)
    labels[::7, 1] = np.nan
    told = Demographics(
        age=["40-59"] * len(rows), sex=[sexes[patient] for patient in rows], view=["unknown"] * len(rows)
    )
    return Predictions(
        scores_NY=torch.from_numpy(np.clip(generator.random((len(rows), 2)) * 0.5 + 0.3 * labels, 0, 1)).nan_to_num(
            0.5
        ),
        labels_NY=torch.from_numpy(labels),
        patient_ids=[f"p{patient}" for patient in rows],
        label_space=SPACE,
        demographics=told if demographics else None,
    )


def test_a_subgroup_is_its_rows_alone():
    given = predictions(["female"] * 20 + ["male"] * 30)
    found = {group["group"]: group for group in results_of(given, HOW)["subgroups"]["sex"]}
    rows = torch.tensor([row for row, sex in enumerate(given.demographics.sex) if sex == "female"])
    alone = evaluate_scores(
        given.scores_NY[rows],
        given.labels_NY[rows],
        [given.patient_ids[row] for row in rows],
        SPACE,
        resamples=20,
        seed=0,
        min_patients=5,
    )
    assert (found["female"]["patients"], found["female"]["images"]) == (20, 40)
    assert found["female"]["auc"] == alone.auc
    assert found["female"]["auc_ci"] == list(alone.auc_ci)
    known = ~given.labels_NY[rows].isnan()
    error = (given.scores_NY[rows] - given.labels_NY[rows])[known].square().mean()
    assert found["female"]["brier"]["findings"] == pytest.approx(float(error))
    assert found["male"]["patients"] == 30


def test_small_groups_are_hidden_and_cannot_be_had_by_subtraction():
    given = predictions(["female"] * 9 + ["male"] * 30 + ["unknown"] * 12)
    groups = results_of(given, HOW)["subgroups"]["sex"]
    assert [group["group"] for group in groups] == ["female", "male", "unknown"]
    assert [group["suppressed"] for group in groups] == [True, False, True]  # the smallest other one, too
    assert set(groups[0]) == {"group", "suppressed"}
    assert all(group["suppressed"] for group in results_of(predictions(["female"] * 9 + ["male"] * 30), HOW)
               ["subgroups"]["sex"])  # fmt: skip
    both = results_of(predictions(["female"] * 9 + ["male"] * 30 + ["unknown"] * 3), HOW)["subgroups"]["sex"]
    assert [group["suppressed"] for group in both] == [True, False, True]


@given(
    counts=st.dictionaries(st.integers(0, 20), st.integers(1, 30), min_size=1, max_size=8), smallest=st.integers(2, 15)
)
def test_no_group_below_the_minimum_is_ever_shown(counts, smallest):
    hidden = withheld(counts, smallest)
    assert all(name in hidden for name, count in counts.items() if count < smallest)
    assert len(hidden) != 1 or len(counts) == 1
    if min(counts.values()) >= smallest:
        assert not hidden


def test_images_do_not_stand_for_patients():
    groups = results_of(predictions(["female"] * 5 + ["male"] * 20, images=4), HOW)["subgroups"]["sex"]
    assert all(group["suppressed"] for group in groups)  # 20 images, but of 5 patients


def test_a_site_with_too_few_patients_tells_nothing():
    assert results_of(predictions(["female"] * 9), HOW) == {"suppressed": True}


def test_dimensions_that_the_tables_do_not_tell_are_empty():
    found = results_of(predictions(["female"] * 20), HOW)["subgroups"]
    assert found["view"] == []
    assert [group["group"] for group in found["age"]] == ["40-59"]
    assert not any(results_of(predictions(["x"] * 20, demographics=False), HOW)["subgroups"].values())


def test_labels_with_few_patients_of_a_kind_are_hidden():
    given = predictions(["female"] * 20)
    given.labels_NY[:, 0] = 0
    given.labels_NY[:8, 0] = 1  # of four patients
    mass, edema = results_of(given, HOW)["labels"]
    assert mass == {"label": "Mass", "suppressed": True}
    assert edema["positive"] >= 5
    known = ~given.labels_NY[:, 1].isnan()
    positive = given.scores_NY[known][given.labels_NY[known][:, 1] == 1][:, 1]
    negative = given.scores_NY[known][given.labels_NY[known][:, 1] == 0][:, 1]
    greater = (positive[:, None] > negative).double() + 0.5 * (positive[:, None] == negative)
    assert edema["auc"] == pytest.approx(float(greater.mean()))


def test_no_number_in_a_card_is_of_fewer_patients_than_the_minimum():
    found = results_of(predictions(["female"] * 12 + ["male"] * 11 + ["unknown"] * 4), HOW)

    def check(value: object) -> None:
        if isinstance(value, dict):
            assert value.get("patients", 10) >= 10
            if value.get("suppressed"):
                assert not set(value) - {"suppressed", "group", "label", "low", "high"}
            for part in value.values():
                check(part)
        elif isinstance(value, list):
            for part in value:
                check(part)

    check(found)
    json.dumps(found, allow_nan=False)
