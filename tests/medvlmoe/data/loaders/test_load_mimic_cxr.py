import gzip

import pytest

from medvlmoe.data import DatasetConfig, load_index
from medvlmoe.data.known_labels import CHEXPERT
from medvlmoe.errors import DataError

REPORT = " INDICATION:  Fever.\n \n FINDINGS:  Large effusion.\n \n IMPRESSION:  Effusion.\n"


@pytest.fixture
def make_mimic(tmp_path, draw):
    """Thirty studies of thirty patients, each with a frontal and a lateral image; the last study has no labels."""

    def make(**config):
        split, metadata = ["dicom_id,study_id,subject_id,split"], ["dicom_id,subject_id,study_id,ViewPosition"]
        labels = ["subject_id,study_id," + ",".join(sorted(CHEXPERT))]
        for number in range(30):
            patient, study = 10_000_000 + number, 50_000_000 + number
            part = "validate" if number % 5 == 3 else "test" if number % 5 == 4 else "train"
            folder = tmp_path / "files" / "p10" / f"p{patient}" / f"s{study}"
            for view in ("PA", "LATERAL"):
                draw(folder / f"{view}{number}.jpg", number)
                split.append(f"{view}{number},{study},{patient},{part}")
                metadata.append(f"{view}{number},{patient},{study},{view}")
            folder.with_suffix(".txt").write_text(REPORT)
            values = {"Pleural Effusion": str(number % 2), "Edema": "-1.0"}
            if number < 29:
                labels.append(f"{patient},{study}," + ",".join(values.get(label, "") for label in sorted(CHEXPERT)))
        for name, lines in (("split", split), ("metadata", metadata), ("chexpert", labels)):
            content = "\n".join(lines).encode()
            (tmp_path / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(gzip.compress(content))
        return DatasetConfig(**{"kind": "mimic_cxr", "root": str(tmp_path), **config})

    return make


def test_frontal_images_with_the_labels_of_their_study(make_mimic):
    index = load_index(make_mimic())
    assert len(index) == 29
    assert index.left_out == {"study without labels": 2, "not frontal (AP or PA)": 29}
    effusion = index.labels_NY[:, index.label_space.labels.index("Pleural Effusion")]
    assert effusion[:4].tolist() == [0, 1, 0, 1]
    assert [(index.splits == part).sum() for part in ("train", "validation", "test")] == [18, 6, 5]
    assert index.texts[0] == "Chest radiograph, PA view. Indication: Fever."


def test_all_views(make_mimic):
    index = load_index(make_mimic(views="all"))
    assert len(index) == 58
    assert index.texts[1].startswith("Chest radiograph, lateral view.")


def test_text_modes(make_mimic):
    assert load_index(make_mimic(text="demographics")).texts[0] == "Chest radiograph, PA view."
    assert load_index(make_mimic(text="none")).texts[0] == "Chest radiograph."
    assert "Large effusion" in load_index(make_mimic(text="report", allow_label_leak=True)).texts[0]


def test_reports_are_optional(make_mimic, tmp_path):
    config = make_mimic()
    for path in tmp_path.glob("files/p10/*/*.txt"):
        path.unlink()
    assert load_index(config).texts[0] == "Chest radiograph, PA view."


def test_missing_table_and_images(make_mimic, tmp_path):
    config = make_mimic()
    (tmp_path / "files/p10/p10000002/s50000002/PA2.jpg").unlink()
    with pytest.raises(DataError, match="1 of 29 images are not on disk, the first is files/p10/p10000002"):
        load_index(config)
    (tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    with pytest.raises(DataError, match=r"no mimic-cxr-2.0.0-chexpert.csv.gz"):
        load_index(config)
