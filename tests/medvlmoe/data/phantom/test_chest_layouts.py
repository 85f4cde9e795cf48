import csv
import gzip
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from medvlmoe.data.phantom.chest_labels import CHEXPERT_LABELS
from medvlmoe.data.phantom.chest_site import CHESTXRAY14_FINDINGS

IMAGES = 80
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def _rows(path: Path) -> list[dict[str, str]]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return list(csv.DictReader(text.splitlines()))


def test_chestxray14_layout(phantoms: Path) -> None:
    folder = phantoms / "chestxray14"
    table = folder / "Data_Entry_2017_v2020.csv"
    assert table.read_text().splitlines()[0] == NIH_HEADER
    rows = _rows(table)
    lists = {name: (folder / name).read_text().splitlines() for name in ("train_val_list.txt", "test_list.txt")}
    listed = [name for names in lists.values() for name in names]
    assert len(rows) == len(listed) == len(set(listed)) == IMAGES
    assert {row["Image Index"] for row in rows} == set(listed) == {path.name for path in (folder / "images").iterdir()}
    patients = [{name.split("_")[0] for name in names} for names in lists.values()]
    assert not patients[0] & patients[1]
    for row in rows:
        assert re.fullmatch(r"\d{8}_\d{3}\.png", row["Image Index"])
        assert row["Image Index"] == f"{int(row['Patient ID']):08d}_{int(row['Follow-up #']):03d}.png"
        labels = row["Finding Labels"].split("|")
        assert labels == ["No Finding"] or set(labels) <= set(CHESTXRAY14_FINDINGS)
        assert row["View Position"] in ("PA", "AP")
        assert row["Patient Gender"] in ("F", "M")


def test_chestxray14_has_both_values_of_most_labels_in_both_lists(phantoms: Path) -> None:
    folder = phantoms / "chestxray14"
    test = set((folder / "test_list.txt").read_text().splitlines())
    rows = _rows(folder / "Data_Entry_2017_v2020.csv")
    for part in (True, False):
        labels = [row["Finding Labels"].split("|") for row in rows if (row["Image Index"] in test) is part]
        both = [name for name in CHESTXRAY14_FINDINGS if 0 < sum(name in found for found in labels) < len(labels)]
        assert len(both) >= (8 if part else 13)


def test_chest_images_are_marked_greyscale(phantoms: Path) -> None:
    with Image.open(next((phantoms / "chestxray14" / "images").glob("*.png"))) as image:
        assert image.mode == "L"
        assert image.size == (64, 64)
        assert "PHANTOM" in image.info["Comment"]
    for folder in ("chexpert", "mimic_cxr"):
        with Image.open(next((phantoms / folder).rglob("*.jpg"))) as image:
            assert image.mode == "L"
            assert b"PHANTOM" in image.info["comment"]


def test_chexpert_layout(phantoms: Path) -> None:
    folder = phantoms / "chexpert"
    patients: dict[str, set[str]] = {}
    values: dict[str, set[str]] = {}
    total = 0
    for split in ("train", "valid", "test"):
        rows = _rows(folder / "CheXpert-v1.0-small" / f"{split}.csv")
        assert list(rows[0]) == ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS]
        for row in rows:
            assert re.fullmatch(
                rf"CheXpert-v1\.0-small/{split}/patient\d{{5}}/study\d+/view\d_(frontal|lateral)\.jpg", row["Path"]
            )
            assert (folder / row["Path"]).is_file()
            lateral = row["Path"].endswith("lateral.jpg")
            assert (row["Frontal/Lateral"], row["AP/PA"] == "") == ("Lateral" if lateral else "Frontal", lateral)
        patients[split] = {row["Path"].split("/")[2] for row in rows}
        values[split] = {row[label] for row in rows for label in CHEXPERT_LABELS}
        total += len(rows)
    assert total == IMAGES
    assert not patients["train"] & patients["valid"]
    assert not (patients["train"] | patients["valid"]) & patients["test"]
    assert values["train"] == {"", "-1.0", "0.0", "1.0"}
    assert values["valid"] == values["test"] == {"0.0", "1.0"}
    assert (folder / "CheXpert-v1.0-small" / "train" / "patient00001" / "study1" / "view1_frontal.jpg").is_file()


def test_chexpert_labels_are_the_same_within_a_study(phantoms: Path) -> None:
    studies = defaultdict(set)
    for row in _rows(phantoms / "chexpert" / "CheXpert-v1.0-small" / "train.csv"):
        studies[row["Path"].rsplit("/", 1)[0]].add(tuple(row[label] for label in CHEXPERT_LABELS))
    assert all(len(labels) == 1 for labels in studies.values())


def test_mimic_layout(phantoms: Path) -> None:
    folder = phantoms / "mimic_cxr"
    splits = _rows(folder / "mimic-cxr-2.0.0-split.csv.gz")
    assert list(splits[0]) == ["dicom_id", "study_id", "subject_id", "split"]
    assert len(splits) == IMAGES
    subjects = defaultdict(set)
    for row in splits:
        subjects[row["split"]].add(row["subject_id"])
        patient = folder / "files" / f"p{row['subject_id'][:2]}" / f"p{row['subject_id']}"
        assert (patient / f"s{row['study_id']}" / f"{row['dicom_id']}.jpg").is_file()
        assert (patient / f"s{row['study_id']}.txt").is_file()
    assert set(subjects) == {"train", "validate", "test"}
    assert sum(map(len, subjects.values())) == len(set().union(*subjects.values()))
    metadata = _rows(folder / "mimic-cxr-2.0.0-metadata.csv.gz")
    assert [row["dicom_id"] for row in metadata] == [row["dicom_id"] for row in splits]
    assert {row["ViewPosition"] for row in metadata} <= {"AP", "PA", "LATERAL"}
    studies = {row["study_id"] for row in splits}
    for labeller in ("chexpert", "negbio"):
        rows = _rows(folder / f"mimic-cxr-2.0.0-{labeller}.csv.gz")
        assert list(rows[0]) == ["subject_id", "study_id", *sorted(CHEXPERT_LABELS)]
        assert len(rows) == len(studies)
        assert {row["study_id"] for row in rows} == studies
        assert {row[label] for row in rows for label in CHEXPERT_LABELS} == {"", "-1.0", "0.0", "1.0"}


def test_images_of_one_patient_share_anatomy(phantoms: Path) -> None:
    """Two studies of one patient look more alike than two patients do."""
    images = defaultdict(list)
    for path in sorted((phantoms / "chestxray14" / "images").iterdir()):
        with Image.open(path) as image:
            pixels = np.asarray(image, dtype=float)
        images[path.name[:8]].append((pixels - pixels.mean()) / pixels.std())
    several = [pictures for pictures in images.values() if len(pictures) > 1]
    assert len(several) > 8
    within = np.mean([np.abs(pictures[0] - pictures[1]).mean() for pictures in several])
    between = np.mean([np.abs(a[0] - b[0]).mean() for a in several for b in several if a is not b])
    assert within < between
