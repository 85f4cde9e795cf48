import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlmoe.data.text import age_words, prompt, prompts, sex_words, view_words

ALLOWED = {"PA", "AP", "AP supine", "AP erect", "AP axial", "lateral", "oblique", "frontal", ""}


def test_the_published_template():
    assert prompt("Frontal chest radiograph", view="PA", age="57", sex="M") == (
        "Frontal chest radiograph, PA view. 57-year-old male."
    )


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "X."),
        ({"view": "?"}, "X."),
        ({"sex": "Female"}, "X. Female."),
        ({"age": "60.0"}, "X. 60-year-old patient."),
        ({"view": "AP Supine", "age": "058Y", "sex": "f"}, "X, AP supine view. 58-year-old female."),
        ({"age": "414", "sex": "M"}, "X. Male."),
    ],
)
def test_unknown_facts_are_left_out(facts, text):
    assert prompt("X.", **facts) == text


@given(st.text())
def test_only_known_words_pass(value):
    """A column that names the diagnosis cannot reach the text by being declared as age, sex or view."""
    assert view_words(value) in ALLOWED
    assert sex_words(value) in {"male", "female", ""}
    assert age_words(value) in {"", *(f"{age}-year-old" for age in range(121))}


def test_mode_none_is_constant():
    facts = {"views": ["PA", "AP"], "ages": ["1", "2"], "sexes": ["M", "F"]}
    assert prompts("none", "X", **facts) == ["X.", "X."]
    assert len(set(prompts("context", "X", **facts))) == 2
