import gzip
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlmoe.data import DatasetConfig, load_index
from medvlmoe.data.known_labels import CHEXPERT
from medvlmoe.data.loaders import report_store
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


def test_reports_are_optional_and_their_absence_is_told(make_mimic, tmp_path, caplog):
    config = make_mimic()
    assert load_index(config).notes["reports"] == "30 of 30 studies looked at have one" and not caplog.text
    for path in tmp_path.glob("files/p10/*/*.txt"):
        path.unlink()
    index = load_index(config)
    assert index.texts[0] == "Chest radiograph, PA view."
    assert index.notes["reports"] == "0 of 30 studies looked at have one"
    assert "none of 30 studies has a report, so that the text is the view alone; set reports_root" in caplog.text


def test_missing_table_and_images(make_mimic, tmp_path):
    config = make_mimic()
    (tmp_path / "files/p10/p10000002/s50000002/PA2.jpg").unlink()
    with pytest.raises(DataError, match="1 of 29 images are not on disk, the first is files/p10/p10000002"):
        load_index(config)
    (tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    with pytest.raises(DataError, match=r"no mimic-cxr-2.0.0-chexpert.csv.gz"):
        load_index(config)


def read_gz(path):
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def write_gz(path, lines):
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def effusion(index):
    return index.labels_NY[:, index.label_space.labels.index("Pleural Effusion")].tolist()


@given(st.permutations(range(16)), st.permutations(range(4)))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_the_columns_does_not_matter(make_mimic, tmp_path, label_order, split_order):
    config = make_mimic()
    before = load_index(config)
    for name, order in (("chexpert", label_order), ("split", split_order)):
        path = tmp_path / f"mimic-cxr-2.0.0-{name}.csv.gz"
        rows = [line.split(",") for line in read_gz(path)]
        write_gz(path, [",".join(row[place] for place in order) for row in rows])
    after = load_index(config)
    np.testing.assert_array_equal(after.labels_NY, before.labels_NY)
    assert (after.study_ids, after.splits.tolist()) == (before.study_ids, before.splits.tolist())


def test_the_other_labeler(make_mimic, tmp_path):
    config = make_mimic()
    first = effusion(load_index(config))
    lines = read_gz(tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz")
    place = lines[0].split(",").index("Pleural Effusion")
    rows = [line.split(",") for line in lines]
    for row in rows[1:]:
        row[place] = str(1 - int(row[place]))
    (tmp_path / "mimic-cxr-2.0.0-negbio.csv").write_text("\n".join(map(",".join, rows)))  # unpacked
    config.labeler = "negbio"
    index = load_index(config)
    assert effusion(index) == [1 - value for value in first]
    assert index.notes["labels"].startswith("negbio labeler")


def test_a_radiologists_labels_of_the_test_split(make_mimic, tmp_path):
    """As in version 2.1.0: by study_id alone, Airspace Opacity for Lung Opacity, and not every test study."""
    names = ["study_id", "Airspace Opacity", *(label for label in CHEXPERT if label != "Lung Opacity")]
    rows = [",".join(names), *(f"{50_000_000 + study},1.0," + ",".join(["0.0"] * 13) for study in (4, 9, 14, 0))]
    (tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text("\n".join(rows))
    config = make_mimic(test_labels="radiologist")
    index = load_index(config)
    opacity = index.labels_NY[:, index.label_space.labels.index("Lung Opacity")]
    test = index.splits == "test"
    assert [index.study_ids[row] for row in np.flatnonzero(test)] == ["50000004", "50000009", "50000014"]
    assert opacity[test].tolist() == [1, 1, 1]
    assert opacity[~test].tolist() == [0] * 24  # study 0 is of the train split: the labeler's label stays
    assert index.left_out["study without labels"] == 2 * 3
    config.test_labels = "labeler"
    assert (load_index(config).splits == "test").sum() == 5


@pytest.mark.parametrize("place", ["zip at the root", "zip", "folder", "folder of the zip", "files of the zip"])
def test_reports_may_lie_elsewhere(make_mimic, tmp_path, place):
    config = make_mimic()
    expected = list(load_index(config).texts)
    assert "Fever" in expected[0]
    elsewhere = tmp_path.parent / f"{tmp_path.name}-reports"
    with zipfile.ZipFile(tmp_path / "reports.zip", "w") as archive:
        for path in sorted(tmp_path.glob("files/p10/*/*.txt")):
            archive.write(path, path.relative_to(tmp_path))
            target = elsewhere / path.relative_to(tmp_path)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    if place == "zip at the root":
        (tmp_path / "reports.zip").rename(tmp_path / "mimic-cxr-reports.zip")
    elif place == "zip":
        config.reports_root = "reports.zip"
    elif place == "folder":
        config.reports_root = str(elsewhere)
    elif place == "folder of the zip":
        shutil.rmtree(elsewhere)
        elsewhere.mkdir()
        (tmp_path / "reports.zip").rename(elsewhere / "mimic-cxr-reports.zip")
        config.reports_root = str(elsewhere)
    else:
        elsewhere.rename(tmp_path / "mimic-cxr-reports")
    assert list(load_index(config).texts) == expected
    assert load_index(config).texts[:2] == expected[:2]


def test_reports_that_are_not_where_they_are_said_to_be(make_mimic, tmp_path):
    with pytest.raises(
        DataError, match=r"neither files/p10/… nor mimic-cxr-reports\.zip is there; correct reports_root"
    ):
        load_index(make_mimic(reports_root="elsewhere"))
    (tmp_path / "half.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"half\.zip: cannot be read"):
        load_index(make_mimic(reports_root="half.zip"))


def test_only_reports_of_the_wanted_split_are_read_and_each_once(make_mimic, monkeypatch, build):
    read = []
    real = report_store.read_text
    monkeypatch.setattr(report_store, "read_text", lambda path: read.append(path.stem) or real(path))
    config = make_mimic(views="all")
    index = load_index(config)
    assert read == []
    dataset = build(config, "test")
    assert sorted(read) == sorted({f"s{study}" for study in dataset.study_ids})
    assert len(dataset) == 10
    assert len(index) == 58


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        # an image without a view would be left out as not frontal, and nobody would know
        ("metadata", "PA3,10000003,50000003,PA", "", r"split\.csv\.gz line 8: dicom_id is not in .*metadata\.csv\.gz"),
        ("split", "PA3,50000003,10000003", "PA3,50000003,", r"split\.csv\.gz line 8: subject_id is empty"),
        ("chexpert", "10000003,50000003", "10000003,", r"chexpert\.csv\.gz line 5: study_id is empty"),
        ("chexpert", "10000003,50000003", "10000004,50000003", r"chexpert\.csv\.gz line 5: subject_id is not that of"),
    ],
)
def test_tables_that_do_not_fit_together(make_mimic, tmp_path, name, old, new, message):
    config = make_mimic()
    path = tmp_path / f"mimic-cxr-2.0.0-{name}.csv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).decode().replace(old, new).encode()))
    with pytest.raises(DataError, match=message):
        load_index(config)
