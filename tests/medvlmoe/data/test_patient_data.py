import json
import logging

import numpy as np
import pytest

from medvlmoe.data import DatasetConfig, load_index
from medvlmoe.data.patient_data import IDENTIFYING, warn_of_patient_data
from tests.medvlmoe.data.dicom_files import write_dicom, write_series

PIXELS = np.random.default_rng(0).integers(0, 4096, (20, 20)).astype(np.uint16)
SECRET = "Mustermann^Erika"


@pytest.fixture
def hospital(make_manifest, manifest_rows, tmp_path):
    """A site whose 60 images are DICOM; ``make(number -> elements)`` says what stands in their headers."""

    def make(elements) -> DatasetConfig:
        rows = manifest_rows()
        for number, row in enumerate(rows):
            row["file"] = f"images/{number:03d}.dcm"
            write_dicom(tmp_path / row["file"], PIXELS, **elements(number))
        return make_manifest(rows)

    return make


def warnings_of(config, cache, caplog) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_of_patient_data(load_index(config), cache)
    return [record.getMessage() for record in caplog.records]


def test_patient_data_is_counted_once_by_element_and_never_quoted(hospital, tmp_path, caplog):
    def elements(number):
        if number % 10:
            return {"PatientName": "", "PatientID": None} if number % 2 else {}
        return {"PatientName": SECRET, "PatientBirthDate": "19500101"}

    config, cache = hospital(elements), tmp_path / "cache"
    (line,) = warnings_of(config, cache, caplog)
    assert "6 of 60 DICOM files carry patient data in their header (PatientName, PatientBirthDate)" in line
    assert "000.dcm" in line
    record = next(cache.glob("patient-data-*.json"))
    listed = json.loads(record.read_text())
    assert list(listed["patient_data"].values()) == [["PatientName", "PatientBirthDate"]] * 6
    assert listed["burned_in_annotation"] == []
    for said in (line, record.read_text(), caplog.text):
        assert "Mustermann" not in said
        assert "1950" not in said
    assert str(record) in line
    assert warnings_of(config, cache, caplog) == []  # said once
    write_dicom(tmp_path / "images/001.dcm", PIXELS, PatientID="7")
    assert "7 of 60" in warnings_of(config, cache, caplog)[0]  # until a file changes


def test_files_that_say_they_were_deidentified(hospital, tmp_path, caplog):
    config = hospital(lambda _: {"PatientName": "PSEUDONYM", "PatientIdentityRemoved": "YES"})
    assert warnings_of(config, tmp_path / "cache", caplog) == []


def test_writing_in_the_picture(hospital, tmp_path, caplog):
    config = hospital(
        lambda number: {"BurnedInAnnotation": "YES" if number == 7 else "NO", "PatientIdentityRemoved": "YES"}
    )
    (line,) = warnings_of(config, tmp_path / "cache", caplog)
    assert "1 of 60 DICOM files are marked BurnedInAnnotation=YES, the first is" in line
    assert "007.dcm" in line


@pytest.mark.parametrize("key", [key for key in IDENTIFYING if "Sequence" not in key])
def test_every_element_is_noticed(make_manifest, manifest_rows, tmp_path, caplog, key):
    rows = manifest_rows()
    rows[0]["file"] = "images/000"
    write_dicom(tmp_path / "images/000", PIXELS, **{key: "20200101" if key.endswith("Date") else "101010"})
    (line,) = warnings_of(make_manifest(rows), tmp_path / "cache", caplog)
    assert f"1 of 1 DICOM files carry patient data in their header ({key})" in line


def test_slices_of_a_series_count_each(make_manifest, manifest_rows, tmp_path, caplog):
    rows = manifest_rows()
    for number, row in enumerate(rows):
        row["file"] = f"series{number}"
        name = {"PatientName": SECRET} if number == 3 else {}
        write_series(tmp_path / row["file"], np.zeros((2, 8, 8), dtype=np.int16), **name)
    (line,) = warnings_of(make_manifest(rows), tmp_path / "cache", caplog)
    assert "2 of 120 DICOM files" in line


def test_pictures_are_not_looked_into(make_manifest, tmp_path, caplog):
    assert warnings_of(make_manifest(), tmp_path / "cache", caplog) == []
    assert not (tmp_path / "cache").exists()


def test_opening_a_data_set_warns_and_holds_pixels_only(hospital, build, tmp_path, caplog):
    config = hospital(lambda _: {"PatientName": SECRET, "PatientID": SECRET})
    with caplog.at_level(logging.WARNING):
        for split in ("train", "validation", "test"):
            dataset = build(config, split)
    assert caplog.text.count("carry patient data") == 1
    assert dataset[0].image_BCHW.shape == (1, 3, 16, 16)
    for file in (tmp_path / "cache").iterdir():
        assert b"Mustermann" not in file.read_bytes()
