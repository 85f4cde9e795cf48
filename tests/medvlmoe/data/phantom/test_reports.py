import csv
import gzip
import re
from pathlib import Path

import numpy as np

from medvlmoe.data.phantom.chest_labels import CHEXPERT_LABELS, chexpert_truth, mentioned
from medvlmoe.data.phantom.reports import write_report

HEADINGS = ["EXAMINATION", "INDICATION", "TECHNIQUE", "COMPARISON", "FINDINGS", "IMPRESSION"]
WORDS_OF_LABELS = {
    "Cardiomegaly": "cardiomegaly",
    "Edema": "edema",
    "Consolidation": "consolidation",
    "Pneumonia": "pneumonia",
    "Atelectasis": "atelectasis",
    "Pneumothorax": "pneumothorax",
    "Pleural Effusion": "effusion",
    "Fracture": "fracture",
    "Lung Lesion": "lesion",
    "Lung Opacity": "opacity",
    "Pleural Other": "thickening",
    "Enlarged Cardiomediastinum": "cardiomediastinum",
}


def _sections(report: str) -> dict[str, str]:
    pieces = re.split(r"^ ([A-Z]+):", report, flags=re.MULTILINE)
    return {heading: text.lower() for heading, text in zip(pieces[1::2], pieces[2::2], strict=True)}


def _labelled_reports(root: Path) -> list[tuple[dict[str, str], dict[str, str]]]:
    text = gzip.decompress((root / "mimic_cxr" / "mimic-cxr-2.0.0-chexpert.csv.gz").read_bytes()).decode()
    return [
        (row, _sections(next((root / "mimic_cxr" / "files").glob(f"*/*/s{row['study_id']}.txt")).read_text()))
        for row in csv.DictReader(text.splitlines())
    ]


def test_reports_have_all_sections_and_name_labels_only_in_findings_and_impression(phantoms: Path) -> None:
    reports = _labelled_reports(phantoms)
    assert len(reports) > 30
    for _, sections in reports:
        assert list(sections) == HEADINGS
        legitimate = " ".join(sections[name] for name in HEADINGS[:4])
        assert not [word for word in WORDS_OF_LABELS.values() if word in legitimate]
        assert "phantom" not in " ".join(sections.values())


def test_findings_name_exactly_the_labels_that_are_mentioned(phantoms: Path) -> None:
    for row, sections in _labelled_reports(phantoms):
        for label, word in WORDS_OF_LABELS.items():
            assert (word in sections["FINDINGS"].replace("\n", " ")) == (row[label] != ""), (label, sections)
            assert (word in sections["IMPRESSION"]) == (row[label] in ("1.0", "-1.0")), (label, sections)


def test_indication_is_related_to_the_findings_but_weakly() -> None:
    random = np.random.default_rng(0)

    def share_of_fever(findings: set[str]) -> float:
        reports = [
            write_report(
                mentioned(chexpert_truth(findings), random),
                sex="F",
                view="PA",
                lateral=False,
                follow_up=False,
                random=random,
            )
            for _ in range(1500)
        ]
        return sum("fever" in _sections(report)["INDICATION"] for report in reports) / len(reports)

    healthy, ill = share_of_fever(set()), share_of_fever({"Pneumonia", "Consolidation"})
    assert 0.05 < healthy < 0.15
    assert healthy + 0.03 < ill < 0.4


def test_labeller_denies_doubts_and_stays_silent() -> None:
    random = np.random.default_rng(0)
    truth = chexpert_truth({"Pneumonia"})
    said = [mentioned(truth, random) for _ in range(400)]
    assert {entry["Pneumonia"] for entry in said} == {1.0, -1.0}
    assert {entry["Pneumothorax"] for entry in said} == {0.0, -1.0, None}
    assert {entry["No Finding"] for entry in said} == {None}
    assert set(said[0]) == set(CHEXPERT_LABELS)
