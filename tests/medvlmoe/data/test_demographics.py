"""Age, sex and view of records, from the tables to the predictions."""

import numpy as np
import pytest

from medvlmoe.data import DatasetConfig, build_dataset, concatenate, load_index, load_tokenizer, site_label_space
from medvlmoe.data.demographics import DIMENSIONS, UNKNOWN, Demographics, age_band


@pytest.mark.parametrize(
    ("age", "band"),
    [("0", "0-17"), ("017Y", "0-17"), ("18", "18-39"), ("59.0", "40-59"), ("60", "60-79"), ("80", "80 and older"),
     ("120", "80 and older"), ("414", UNKNOWN), ("", UNKNOWN), ("old", UNKNOWN)],
)  # fmt: skip
def test_ages_in_bands(age, band):
    assert age_band(age) == band


def dataset(root, cache, kind, folder, **more):
    site = DatasetConfig(kind=kind, root=folder, validation_fraction=0.2)
    return build_dataset(
        site, "test", label_space=site_label_space(site, root), image_size=32, tokenizer=load_tokenizer("byte"),
        max_tokens=64, cache=cache, data_root=root, **more,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["chestxray14", "chexpert", "mimic_cxr"])
def test_they_are_those_of_the_prompt(phantom_root, tmp_path, kind):
    index = load_index(DatasetConfig(kind=kind, root=kind, validation_fraction=0.2), phantom_root)
    test = index.take(np.flatnonzero(index.splits == "test"))
    found = dataset(phantom_root, tmp_path, kind, kind)
    assert len(found.demographics) == len(found)
    assert found.demographics == test.demographics
    seen = set()
    for row, text in enumerate(test.texts):
        sex, age, view = (getattr(found.demographics, name)[row] for name in ("sex", "age", "view"))
        seen |= {sex, age, view}
        if sex != UNKNOWN:
            assert f" {sex}." in text.lower()
        if age != UNKNOWN:
            assert age_band(text.partition("-year-old")[0].split()[-1]) == age
        if view != UNKNOWN:
            assert f"{view} view" in text
    assert len(seen - {UNKNOWN}) > (4 if kind != "mimic_cxr" else 0)


def test_benchmarks_without_patients_tell_nothing(phantom_root, tmp_path):
    assert dataset(phantom_root, tmp_path, "retinamnist", "medmnist").demographics is None


def test_pooled_sites_keep_theirs_in_order(phantom_root, tmp_path):
    first, second = (dataset(phantom_root, tmp_path, "chestxray14", "chestxray14") for _ in range(2))
    second.demographics = None
    pooled = concatenate([first, second])
    for name in DIMENSIONS:
        assert getattr(pooled.demographics, name) == getattr(first.demographics, name) + [UNKNOWN] * len(second)


def test_take_and_unknown():
    found = Demographics.of(ages=["5", "70"], sexes=["F", "x"], views=["pa", ""])
    assert found.to_dict() == {"age": ["0-17", "60-79"], "sex": ["female", UNKNOWN], "view": ["PA", UNKNOWN]}
    assert found.take(np.array([1])).to_dict() == {"age": ["60-79"], "sex": [UNKNOWN], "view": [UNKNOWN]}
    assert Demographics.unknown(2).age == [UNKNOWN, UNKNOWN]
