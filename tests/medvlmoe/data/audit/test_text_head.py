import numpy as np
import pytest

from medvlmoe.data import LabelSpace
from medvlmoe.data.audit.text_head import TextHead
from medvlmoe.data.finding_terms import label_terms

FINDINGS = LabelSpace.single("mine", "multilabel", ["Pneumothorax", "Mass"])
GRADES = LabelSpace.single("grade", "ordinal", ["low", "middle", "high"])


def head(space: LabelSpace, texts: list[str], labels: list[list[float]]) -> TextHead:
    return TextHead(space, label_terms(space.labels, {})).fit(texts, np.array(labels))


def test_a_word_and_a_pair_of_words_are_learned():
    texts = ["red box", "blue box", "red ball", "blue ball"] * 5
    labels = [[float("red" in text), float(text == "blue box")] for text in texts]
    scores = head(FINDINGS, texts, labels).scores(["red box", "blue box", "blue ball"])
    assert scores[0, 0] > 0.8 > 0.2 > scores[1, 0]
    assert scores[1, 1] > 0.5 > scores[2, 1]


def test_synonyms_of_a_label_count_as_one_word():
    """Learned from "pneumothorax", known for "PTX": no word of the two texts is the same."""
    fitted = head(FINDINGS, ["pneumothorax", "cough"] * 5, [[1.0, 0.0], [0.0, 1.0]] * 5)
    ptx, neither = fitted.scores(["apical PTX", "apical line"])
    assert ptx[0] > neither[0] + 0.1


def test_ages_are_an_amount():
    texts = [f"{age}-year-old" for age in range(20, 90)]
    fitted = head(FINDINGS, texts, [[float(age > 60), 0.0] for age in range(20, 90)])
    young, old = fitted.scores(["A 93-year-old", "A 5-year-old"])[:, 0][::-1]
    assert old > 0.9 > 0.1 > young, "ages that were never seen"


def test_unknown_labels_are_left_out_and_soft_ones_rounded():
    texts = ["red", "blue", "red", "blue"] * 5
    known = head(FINDINGS, texts, [[1.0, 0.0], [0.0, 1.0]] * 10).scores(texts)
    texts_more = [*texts, "red", "blue"]
    more = [*[[0.8, 0.0], [0.2, 0.9]] * 10, [np.nan, np.nan], [np.nan, np.nan]]
    # the words' weights see the two more texts, the regressions do not
    np.testing.assert_allclose(head(FINDINGS, texts_more, more).scores(texts), known, atol=0.02)


def test_classes_have_one_regression_and_their_scores_sum_to_one():
    texts = ["one", "two", "three"] * 4
    labels = np.tile(np.eye(3), (4, 1))
    scores = head(GRADES, texts, labels).scores(["one", "two", "three"])
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert scores.argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seen", [(0, 2), (1,)])
def test_classes_that_were_not_seen_score_nothing(seen):
    texts = [["one", "two", "three"][grade] for grade in seen] * 4
    scores = head(GRADES, texts, np.eye(3)[list(seen) * 4]).scores(["one", "two", "three"])
    unseen = [grade for grade in range(3) if grade not in seen]
    assert (scores[:, unseen] == 0).all()
    assert (scores[:, list(seen)] > 0).all() == (len(seen) > 1)


@pytest.mark.parametrize("texts", [["", ""], ["?", "!"], ["a", "b"]])
def test_texts_without_words(texts):
    assert (head(FINDINGS, texts, [[1.0, 0.0], [0.0, 1.0]]).scores(texts) == 0).all()


def test_a_word_of_few_patients_is_never_shown():
    """A name that stands in three texts of one patient is no word of five patients."""
    texts = ["Smith red"] * 10 + ["red"] * 10 + ["blue"] * 20
    patients = ["p0"] * 10 + [f"p{k}" for k in range(1, 31)]
    fitted = head(FINDINGS, texts, [[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20)
    words = fitted.strongest_words(texts, patients, fewest=5)
    assert words["Pneumothorax"] == ["red"]
    assert words["Mass"] == ["blue"]
    assert "smith" in fitted.strongest_words(texts, patients, fewest=1)["Pneumothorax"]
    graded = head(GRADES, texts, [[1.0, 0.0, 0.0]] * 20 + [[0.0, 0.0, 1.0]] * 20)
    assert graded.strongest_words(texts, patients, fewest=5) == {"grade/low": ["red"], "grade/high": ["blue"]}
