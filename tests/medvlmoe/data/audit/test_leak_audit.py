"""The audit on made-up sites where it is known what the text tells."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvlmoe.data import DatasetConfig, LabelSpace
from medvlmoe.data.audit import leak_audit
from medvlmoe.data.audit.config import LeakAuditConfig
from medvlmoe.data.audit.leak_audit import LeakAudit, audit_index, audit_site, refuse_leak, sample_of, strongest_words
from medvlmoe.data.audit.reported import LEAKS, PASSES, SUSPICIOUS, TOO_FEW, numbers_leak, summary_of_numbers
from medvlmoe.data.finding_terms import label_terms
from medvlmoe.data.index import SiteIndex
from medvlmoe.errors import ConfigError, LeakError

SPACE = LabelSpace.single("mine", "multilabel", ["Alpha", "Beta"])
GRADES = LabelSpace.single("grade", "ordinal", ["low", "middle", "high"])


class NoImages:
    """Images that nobody may open."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def take(self, rows: np.ndarray) -> "NoImages":
        return NoImages(len(rows))


def site(texts: list[str], labels_NY: np.ndarray, space: LabelSpace = SPACE, images_a_patient: int = 1) -> SiteIndex:
    count = len(texts)
    patients = [f"p{row // images_a_patient}" for row in range(count)]
    splits = np.array([("train", "train", "train", "validation", "test")[row // images_a_patient % 5]
                       for row in range(count)], dtype="<U10")  # fmt: skip
    return SiteIndex(
        root=Path(), images=NoImages(count), labels_NY=labels_NY.astype(np.float32), patient_ids=patients,  # type: ignore[arg-type]
        study_ids=patients, texts=texts, splits=splits, label_space=space, grayscale=True,
    )  # fmt: skip


def audited(index: SiteIndex, threshold: float = 0.65, label_threshold: float = 0.95) -> LeakAudit:
    return audit_index(index, label_terms(index.label_space.labels, {}), threshold, label_threshold)


def words_and_labels(count: int, accuracy: float, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of chance words, one of which tells the first label with the given accuracy."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (count, 2))
    told = np.where(random.random(count) < accuracy, labels[:, 0], 1 - labels[:, 0])
    texts = [f"{'yes' if told[row] else 'no'} {' '.join(random.choice(list('abcdefgh'), 4) + 'x')}"
             for row in range(count)]  # fmt: skip
    return texts, labels


def test_a_text_that_tells_a_label_leaks_and_chance_does_not():
    texts, labels = words_and_labels(300, 0.95)
    found = audited(site(texts, labels))
    assert found.verdict == SUSPICIOUS or found.verdict == LEAKS
    assert found.per_label["Alpha"] > 0.9
    assert 0.35 < found.per_label["Beta"] < 0.65
    texts, labels = words_and_labels(300, 0.5)
    assert audited(site(texts, labels)).verdict == PASSES


def test_a_constant_text_gives_exactly_one_half_without_a_head(monkeypatch):
    monkeypatch.setattr(leak_audit, "_text_head", None)
    _, labels = words_and_labels(100, 0.5)
    found = audited(site(["the same"] * 100, labels))
    assert (found.auc, found.auc_ci, found.test_auc, found.verdict) == (0.5, (0.5, 0.5), 0.5, PASSES)


def test_a_head_never_sees_the_patient_that_it_judges():
    """Every patient has a word and a label of its own, and ten images: told by the patient, not by the text."""
    random = np.random.default_rng(0)
    labels = np.repeat(random.integers(0, 2, (60, 2)), 10, axis=0)
    texts = [f"word{row // 10}" for row in range(600)]
    found = audited(site(texts, labels, images_a_patient=10))
    assert found.verdict == PASSES
    assert all(area == 0.5 or area < 0.65 for area in found.per_label.values())


@pytest.mark.parametrize("count", [12, 30])
def test_few_patients_never_fail(count):
    labels = np.zeros((count, 2))
    labels[:9, 0] = 1
    found = audited(site(["yes" if label else "no" for label in labels[:, 0]], labels))
    assert (found.verdict, found.auc, found.labels_averaged) == (TOO_FEW, None, 0)
    refuse_leak(found)


def test_many_images_of_few_patients_are_few():
    labels = np.repeat(np.array([[1, 0]] * 9 + [[0, 1]] * 9), 20, axis=0)
    texts = ["yes" if label else "no" for label in labels[:, 0]]
    assert audited(site(texts, labels, images_a_patient=20)).verdict == TOO_FEW


def test_above_the_threshold_but_not_surely():
    found = LeakAudit(auc=0.7, auc_ci=(0.6, 0.8), labels_averaged=1, per_label={}, threshold=0.65, test_auc=None,
                      test_auc_ci=None, test_labels_averaged=0)  # fmt: skip
    assert found.verdict == SUSPICIOUS
    refuse_leak(found)
    assert replace(found, auc_ci=(0.66, 0.8)).verdict == LEAKS
    assert replace(found, auc_ci=(0.66, 0.8), threshold=0.75).verdict == PASSES


def test_one_label_that_is_told_leaks_though_the_mean_hides_it():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (300, 8))
    texts = [
        f"{'yes' if row[3] else 'no'} {word}x"
        for row, word in zip(labels, random.choice(list("abcdefgh"), 300), strict=True)
    ]
    space = LabelSpace.single("mine", "multilabel", list("ABCDEFGH"))
    found = audited(site(texts, labels, space))
    assert found.auc < 0.65 and found.told == ("D",) and found.verdict == LEAKS
    with pytest.raises(LeakError, match=r"threshold 0\.65\), and gives away D: it leaks them"):
        refuse_leak(found)
    assert numbers_leak(found.to_numbers()) and not any("D" in name for name in found.to_numbers())
    assert audited(site(texts, labels, space), label_threshold=1.0).verdict == PASSES


def test_a_leak_is_refused_in_one_line_with_number_threshold_and_mend():
    texts, labels = words_and_labels(300, 1.0)
    found = audited(site(texts, labels[:, :1], LabelSpace.single("mine", "multilabel", ["Alpha"])))
    assert found.verdict == LEAKS
    with pytest.raises(LeakError, match=r"AUC of 1\.000 \[1\.000, 1\.000\].*threshold 0\.65.*text=none") as caught:
        refuse_leak(found)
    assert "\n" not in str(caught.value)


def test_chance_rarely_fails():
    """Twenty hospitals of forty patients whose text tells nothing: none is refused."""
    verdicts = [audited(site(*words_and_labels(40, 0.5, seed))).verdict for seed in range(20)]
    assert LEAKS not in verdicts


def test_classes_and_unknown_labels():
    random = np.random.default_rng(0)
    grades = random.integers(0, 3, 200)
    labels = np.eye(3)[grades]
    labels[:20] = np.nan
    texts = [
        f"stage {'abc'[grade]}x {word}y" for grade, word in zip(grades, random.choice(list("abc"), 200), strict=True)
    ]
    found = audited(site(texts, labels, GRADES))
    assert found.verdict == LEAKS
    assert found.labels_averaged == found.test_labels_averaged == 3
    assert found.auc == found.test_auc == 1.0


def test_the_second_number_is_the_test_split_alone():
    texts, labels = words_and_labels(400, 1.0)
    index = site(texts, labels)
    shuffled = ["yes" if row % 2 else "no" for row in range(400)]
    broken = [shuffled[row] if index.splits[row] == "test" else text for row, text in enumerate(texts)]
    found = audited(replace(index, texts=broken))
    assert found.per_label["Alpha"] > 0.8, "four fifths of the site still tell it"
    assert 0.3 < found.test_auc < 0.65


def test_of_a_large_site_whole_patients_are_looked_at_and_always_the_same(monkeypatch):
    monkeypatch.setattr(leak_audit, "_MOST_RECORDS", 50)
    patients = [f"p{row // 4}" for row in range(400)]
    rows = sample_of(patients, np.arange(400))
    assert 40 <= len(rows) <= 50
    chosen = {patients[row] for row in rows}
    assert sorted(rows.tolist()) == [row for row in range(400) if patients[row] in chosen]
    np.testing.assert_array_equal(rows, sample_of(patients, np.arange(400)))
    texts, labels = words_and_labels(400, 1.0)
    index = site(texts, labels)
    assert audited(index) == audited(index)
    read: list[int] = []

    class Counting(list):
        def __getitem__(self, row):
            read.append(row)
            return list.__getitem__(self, row)

    audited(replace(index, texts=Counting(texts)))
    assert len(set(read)) < 400 * 0.6, "the texts of other patients are never read"


def test_numbers_are_all_that_leaves_and_they_tell_the_verdict():
    texts, labels = words_and_labels(300, 1.0)
    found = audited(site(texts, labels[:, :1], LabelSpace.single("mine", "multilabel", ["Alpha"])))
    numbers = found.to_numbers()
    assert all(isinstance(value, float) for value in numbers.values())
    assert not any("Alpha" in name for name in numbers)
    assert numbers_leak(numbers) and not numbers_leak({})
    told = summary_of_numbers({**numbers, "test/auc": 0.3})
    assert told["text_only_auc"] == 1.0
    assert told["leak_audit"] == {"verdict": LEAKS, "auc": 1.0, "auc_ci": [1.0, 1.0], "labels_averaged": 1}


@pytest.mark.parametrize("numbers", [{}, {"test/auc": 1.0}, {"text_only/auc": 0.9}, {"text_only/verdict": 17.0},
                                     {"text_only/verdict": [1.0]}, {"text_only/verdict": float("nan")}])  # fmt: skip
def test_numbers_of_another_version_or_a_hostile_site_say_nothing(numbers):
    assert summary_of_numbers(numbers) == {}


def test_mimic_has_a_threshold_of_its_own(phantom_root):
    config = LeakAuditConfig(threshold=0.6, threshold_mimic_cxr=0.9)
    for kind, threshold in (("mimic_cxr", 0.9), ("chexpert", 0.6)):
        found = audit_site(DatasetConfig(kind=kind, root=str(phantom_root / kind)), config)
        assert found.threshold == threshold
        assert found.verdict != LEAKS


def test_words_are_those_of_five_patients():
    texts, labels = words_and_labels(100, 1.0)
    index = site([*(f"{text} Smith" for text in texts[:4]), *texts[4:]], labels)
    words = strongest_words(index, label_terms(SPACE.labels, {}))
    assert words["Alpha"][0] == "yes"
    assert not any("smith" in word for shown in words.values() for word in shown)
    assert strongest_words(replace(index, texts=["same"] * 100), label_terms(SPACE.labels, {})) == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"action": "no"}, "leak_audit.action=no: use one of fail, warn, skip"),
        ({"threshold": 0.3}, "leak_audit.threshold=0.3: use an AUC"),
        ({"threshold_mimic_cxr": 2}, "threshold_mimic_cxr=2"),
        ({"threshold_label": 2}, "threshold_label=2"),
    ],
)
def test_mistakes_in_the_configuration(values, message):
    with pytest.raises(ConfigError, match=message):
        LeakAuditConfig(**values)
