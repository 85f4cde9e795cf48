import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlmoe.data import load_index
from medvlmoe.errors import ConfigError, DataError


def test_official_lists_and_labels(make_nih, tmp_path):
    index = load_index(make_nih())
    assert len(index) == 60
    assert index.label_space.labels[2] == "Pleural Effusion"
    assert index.labels_NY[0].sum() == 0
    on = [label for label, value in zip(index.label_space.labels, index.labels_NY[1], strict=True) if value]
    assert on == ["Pleural Effusion", "Pleural Thickening"]
    test = {patient for patient, split in zip(index.patient_ids, index.splits, strict=True) if split == "test"}
    assert test == {str(number) for number in range(25, 31)}
    assert index.images.paths[1] == tmp_path / "images_002" / "images" / "00000001_001.png"
    assert index.texts[0] == "Frontal chest radiograph, PA view. 21-year-old male."


def test_validation_is_whole_patients_of_train_val(make_nih):
    index = load_index(make_nih(validation_fraction=0.3))
    by_split = {part: set() for part in ("train", "validation", "test")}
    for patient, split in zip(index.patient_ids, index.splits, strict=True):
        by_split[split].add(patient)
    assert by_split["validation"]
    assert sum(map(len, by_split.values())) == 30
    assert by_split["test"] == {str(number) for number in range(25, 31)}


def test_the_table_of_2017(make_nih, tmp_path):
    """A trailing comma, ages such as 058Y, and the sex column of newer downloads."""
    config = make_nih()
    lines = (tmp_path / "Data_Entry_2017_v2020.csv").read_text().splitlines()
    header = lines[0].replace("Gender", "Sex") + ","
    rows = [line.replace(",M,PA", "Y,F,PA") + "," for line in lines[1:]]
    (tmp_path / "Data_Entry_2017_v2020.csv").unlink()
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join([header, *rows]))
    assert load_index(config).texts[0] == "Frontal chest radiograph, PA view. 21-year-old female."


def test_a_header_with_a_comma_at_its_end_over_rows_without(make_nih, tmp_path):
    config = make_nih()
    before = load_index(config)
    path = tmp_path / "Data_Entry_2017_v2020.csv"
    header, _, rows = path.read_text().partition("\n")
    path.rename(tmp_path / "Data_Entry_2017.csv").write_text(f"{header},\n{rows.replace(',21,M', ',411,M')}")
    index = load_index(config)
    assert np.array_equal(index.labels_NY, before.labels_NY)
    assert index.texts[0] == "Frontal chest radiograph, PA view. Male."  # no one is 411 years old


@given(st.permutations(range(11)))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_the_columns_does_not_matter(make_nih, tmp_path, order):
    config = make_nih()
    before = load_index(config)
    path = tmp_path / "Data_Entry_2017_v2020.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("\n".join(",".join(row[place] for place in order) for row in rows))
    after = load_index(config)
    assert np.array_equal(after.labels_NY, before.labels_NY)
    assert (after.texts, after.patient_ids, after.splits.tolist()) == (
        before.texts, before.patient_ids, before.splits.tolist(),
    )  # fmt: skip


def test_a_listed_image_that_the_table_lacks(make_nih, tmp_path):
    config = make_nih()
    with open(tmp_path / "test_list.txt", "a") as file:
        file.write("\n00099999_000.png\n00099999_001.png\n")
    with pytest.raises(DataError, match=r"test_list.txt line 13: 00099999_000.png is not in the table.* 1 more"):
        load_index(config)


@pytest.mark.parametrize(("count", "version"), [(1431, "v2020"), (1353, "v1"), (7, "unknown (7 Pneumonia)")])
def test_label_versions_are_told_apart_by_pneumonia(make_nih, tmp_path, count, version):
    config = make_nih(split="patient", allow_subset=True)
    path = tmp_path / "Data_Entry_2017_v2020.csv"
    rows = [f"9{number:07d}_000.png,Pneumonia|Mass,0,9{number},50,M,PA,1,1,1,1" for number in range(count)]
    path.write_text(path.read_text() + "\n".join(rows))
    assert load_index(config).notes["labels"] == version


def test_a_subset_is_used_only_when_asked_for_and_counted(make_nih, tmp_path):
    config = make_nih()
    for number in (1, 2, 3):
        (tmp_path / "images_001" / "images" / f"0000000{number}_000.png").unlink()
    with pytest.raises(DataError, match=r"3 of 60 images are not on disk, the first is 00000001_000.png"):
        load_index(config)
    config.allow_subset = True
    index = load_index(config)
    assert len(index) == 57
    assert index.left_out == {"image not on disk": 3}
    assert index.notes["images"] == "57 of 60 on disk"


def test_images_in_neither_list_are_counted(make_nih, tmp_path):
    config = make_nih()
    (tmp_path / "test_list.txt").write_text("00000030_001.png\n")
    assert load_index(config).left_out == {"not in the official lists": 11}


def test_official_lists_must_not_share_patients(make_nih, tmp_path):
    config = make_nih()
    names = (tmp_path / "test_list.txt").read_text().split()
    (tmp_path / "test_list.txt").write_text("\n".join(names[1:]))
    with open(tmp_path / "train_val_list.txt", "a") as file:
        file.write("\n" + names[0])
    with pytest.raises(DataError, match="patient 25 is in more than one split"):
        load_index(config)


def test_one_image_in_both_lists(make_nih, tmp_path):
    config = make_nih()
    (tmp_path / "test_list.txt").write_text("00000001_000.png")
    with pytest.raises(DataError, match=r"00000001_000\.png is in train_val_list.txt too"):
        load_index(config)


def test_split_by_patient_needs_no_lists(make_nih, tmp_path):
    config = make_nih(split="patient")
    (tmp_path / "test_list.txt").unlink()
    assert set(load_index(config).splits.tolist()) == {"train", "validation", "test"}
    config.split = "official"
    with pytest.raises(DataError, match=r"test_list.txt: cannot be read .* set split=patient"):
        load_index(config)


def test_an_unknown_finding_is_named_with_its_line(make_nih):
    with pytest.raises(DataError, match=r"line 4: Finding Labels is 'Mass\|Rash'"):
        load_index(make_nih(["No Finding", "Mass", "Mass|Rash"]))


def test_a_table_without_a_needed_column(make_nih, tmp_path):
    config = make_nih()
    path = tmp_path / "Data_Entry_2017_v2020.csv"
    whole = path.read_text()
    path.write_text(whole.replace("Patient ID", "Patient"))
    with pytest.raises(DataError, match="no column 'Patient ID'; there are 'Image Index'"):
        load_index(config)
    path.write_text(whole.replace("Patient Gender", "Gender"))
    with pytest.raises(DataError, match="no column 'Patient Gender'"):
        load_index(config)
    path.unlink()
    with pytest.raises(DataError, match="is this the ChestX-ray14 folder"):
        load_index(config)


def test_a_site_where_every_image_is_healthy(make_nih):
    with pytest.raises(DataError, match="no label has both a positive and a negative"):
        load_index(make_nih(["No Finding"]))


def test_links_to_image_folders_are_followed_and_circles_end(make_nih, tmp_path):
    config = make_nih()
    elsewhere = tmp_path.parent / f"{tmp_path.name}-disk"
    (tmp_path / "images_001").rename(elsewhere)
    (tmp_path / "images_001").symlink_to(elsewhere)
    (tmp_path / "images_002" / "circle").symlink_to(tmp_path)
    assert len(load_index(config)) == 60


def test_there_are_no_reports(make_nih):
    with pytest.raises(ConfigError, match="chestxray14 has no reports"):
        make_nih(text="report", allow_label_leak=True)


def test_image_files_in_capitals(make_nih, tmp_path):
    config = make_nih()
    for path in tmp_path.rglob("*.png"):
        path.rename(path.with_suffix(".PNG"))
    assert len(load_index(config)) == 60


def test_a_row_without_its_patient_is_named(make_nih, tmp_path):
    config = make_nih()
    path = tmp_path / "Data_Entry_2017_v2020.csv"
    path.write_text(path.read_text().replace(",1,21,M", ",,21,M"))
    with pytest.raises(DataError, match=r"csv line 2: Patient ID is empty; .* \(and \d+ more such rows"):
        load_index(config)
