import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medvlmoe.data import LabelBlock, LabelSpace
from medvlmoe.data.known_labels import canonical_label
from medvlmoe.data.labels import KNOWN_SPACES
from medvlmoe.errors import ConfigError

NAMES = ["Effusion", "Pleural Effusion", "Mass", "Nodule", "No Finding", "stent", "rib notching", "Ångström sign"]


@st.composite
def spaces(draw: st.DrawFn) -> LabelSpace:
    number = draw(st.integers(0, 3))
    if number:
        return LabelSpace.single(f"grade{number}", "ordinal", [f"g{place}" for place in range(number + 1)])
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique_by=canonical_label))
    return LabelSpace.single(draw(st.sampled_from(["a", "b", "c"])), "multilabel", names)


@given(st.lists(spaces(), min_size=1, max_size=5), st.randoms())
def test_union_does_not_depend_on_the_order_of_sites(members, random):
    shuffled = random.sample(members, len(members))
    assert LabelSpace.union(members) == LabelSpace.union(shuffled)


@given(st.lists(spaces(), min_size=1, max_size=5))
def test_union_holds_each_members_labels_once_and_nothing_else(members):
    union = LabelSpace.union(members)
    assert set(union.labels) == {label for space in members for label in space.labels}
    for space in members:
        positions = union.positions_of(space)
        assert [union.labels[place] for place in positions] == list(space.labels)
        assert len(set(positions.tolist())) == len(space)


@given(st.lists(spaces(), min_size=2, max_size=5))
def test_union_of_unions_is_the_union(members):
    halves = [LabelSpace.union(members[:1]), LabelSpace.union(members[1:])]
    assert LabelSpace.union(halves) == LabelSpace.union(members)


@given(st.lists(spaces(), min_size=1, max_size=4))
def test_json_round_trip(members):
    union = LabelSpace.union(members)
    assert LabelSpace.from_dict(json.loads(json.dumps(union.to_dict()))) == union


def test_chest_spaces_share_labels():
    union = LabelSpace.union([KNOWN_SPACES["mimic_cxr"], KNOWN_SPACES["chestxray14"], KNOWN_SPACES["chexpert"]])
    assert len(union) == 14 + 14 - 7  # seven findings are in both lists
    assert union.labels.count("Pleural Effusion") == 1
    assert [block.name for block in union.blocks] == ["findings"]


def test_retina_sites_share_one_block_and_columns_find_it():
    own = LabelSpace.single("diabetic_retinopathy", "ordinal", ["none", "mild", "moderate", "severe", "proliferative"])
    union = LabelSpace.union([KNOWN_SPACES["diabetic_retinopathy"], own, KNOWN_SPACES["chestxray14"]])
    assert len(union) == 14 + 5
    assert union.columns(union.blocks[1]) == slice(14, 19)
    assert torch.equal(union.positions_of(own), torch.arange(14, 19))


def test_one_site_keeps_the_published_order():
    for name in ("chestxray14", "colorectal_tissue", "diabetic_retinopathy"):
        assert LabelSpace.union([KNOWN_SPACES[name]]).labels == KNOWN_SPACES[name].labels


@pytest.mark.parametrize("name", ["Effusion", "effusion", "pleural_effusion", " PLEURAL  EFFUSION "])
def test_spellings_of_one_finding(name):
    assert canonical_label(name) == "Pleural Effusion"


def test_mass_and_lung_lesion_stay_apart():
    names = ("Mass", "Nodule", "Lung Lesion", "Infiltration", "Lung Opacity")
    assert len({canonical_label(name) for name in names}) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelSpace.union([]), "at least one site"),
        (lambda: LabelSpace.single("x", "regression", ["a"]), "use one of multilabel"),
        (lambda: LabelSpace.single("x", "multiclass", ["a"]), "only 1 labels"),
        (lambda: LabelSpace.single("x", "multilabel", ["Effusion", "pleural effusion"]), "twice"),
        (lambda: LabelSpace.single("a/b", "multilabel", ["c"]), "not allowed"),
        (lambda: LabelSpace("x", ("a", "b"), (LabelBlock("findings", "multilabel", ("b", "a")),)), "in order"),
        (lambda: LabelSpace.known("chestxray15"), "known are chestxray14"),
        (lambda: LabelSpace.from_dict({"name": "x"}), "not a label space"),
        (lambda: KNOWN_SPACES["chexpert"].positions_of(KNOWN_SPACES["chestxray14"]), "'Infiltration'"),
        (
            lambda: LabelSpace.union(
                [LabelSpace.single("t", "multiclass", ["a", "b"]), LabelSpace.single("t", "multiclass", ["b", "a"])]
            ),
            "'t' for different classes",
        ),
        (
            lambda: LabelSpace.union(
                [LabelSpace.single("t", "multiclass", ["a", "b"]), LabelSpace.single("t", "ordinal", ["a", "b"])]
            ),
            "'t' for different classes or tasks",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
