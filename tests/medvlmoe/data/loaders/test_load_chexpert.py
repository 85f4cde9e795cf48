import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlmoe.data import DatasetConfig, load_index
from medvlmoe.data.known_labels import CHEXPERT
from medvlmoe.errors import DataError


@pytest.fixture
def make_chexpert(tmp_path, draw):
    """Two views of each of 20 training and 4 validation patients, and of 4 test patients if asked for."""

    def make(*, test=False, **config):
        for part, first in {"train": 1, "valid": 101, **({"test": 201} if test else {})}.items():
            lines = ["Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(reversed(CHEXPERT))]
            for patient in range(first, first + (20 if part == "train" else 4)):
                for view, side, angle in (("view1_frontal", "Frontal", "AP"), ("view2_lateral", "Lateral", "")):
                    place = f"{part}/patient{patient:05d}/study1/{view}.jpg"
                    draw(tmp_path / "CheXpert-v1.0-small" / place, patient)
                    values = {"Pleural Effusion": "1.0" if patient % 2 else "0.0", "Edema": "-1.0"}
                    cells = ",".join(values.get(label, "") for label in reversed(CHEXPERT))
                    age = 0 if patient == 1 else 60
                    lines.append(f"CheXpert-v1.0-small/{place},Female,{age},{side},{angle},{cells}")
            (tmp_path / "CheXpert-v1.0-small" / f"{part}.csv").write_text("\n".join(lines))
        return DatasetConfig(**{"kind": "chexpert", "root": str(tmp_path), **config})

    return make


def column(index, label):
    return index.labels_NY[:, index.label_space.labels.index(label)]


def test_columns_are_found_by_name(make_chexpert):
    index = load_index(make_chexpert())
    assert len(index) == 24
    assert index.left_out == {"not frontal": 24}
    assert column(index, "Pleural Effusion")[:4].tolist() == [1, 0, 1, 0]
    assert column(index, "Fracture").sum() == 0
    assert index.patient_ids[0] == "patient00001"
    assert index.texts[:2] == ["Chest radiograph, AP view. Female.", "Chest radiograph, AP view. 60-year-old female."]


@pytest.mark.parametrize(("policy", "value"), [("zeros", 0), ("ones", 1), ("ignore", np.nan)])
def test_uncertain(make_chexpert, policy, value):
    np.testing.assert_equal(column(load_index(make_chexpert(uncertain=policy)), "Edema"), [value] * 24)


def test_blank(make_chexpert):
    assert np.isnan(column(load_index(make_chexpert(blank="ignore")), "Fracture")).all()


def test_without_a_test_part_the_published_validation_part_is_it(make_chexpert):
    index = load_index(make_chexpert(validation_fraction=0.3))
    assert (index.splits == "test").sum() == 4
    assert 1 <= (index.splits == "validation").sum() <= 12
    assert index.notes["official split"] == "train.csv is train, valid.csv is test"


def test_with_a_test_part(make_chexpert):
    index = load_index(make_chexpert(test=True))
    assert [(index.splits == part).sum() for part in ("train", "validation", "test")] == [20, 4, 4]


def test_all_views(make_chexpert):
    index = load_index(make_chexpert(views="all"))
    assert len(index) == 48
    assert index.texts[3] == "Chest radiograph, lateral view. 60-year-old female."


def test_absent_images_and_folders(make_chexpert, tmp_path):
    config = make_chexpert()
    (tmp_path / "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg").unlink()
    with pytest.raises(DataError, match="1 of 24 images are not on disk, the first is train/patient00002"):
        load_index(config)
    (tmp_path / "CheXpert-v1.0-small/train.csv").unlink()
    with pytest.raises(DataError, match="is this the CheXpert folder"):
        load_index(config)


def test_a_strange_path(make_chexpert, tmp_path):
    config = make_chexpert()
    path = tmp_path / "CheXpert-v1.0-small/train.csv"
    path.write_text(path.read_text().replace("small/train/patient00002", "small/patient00002"))
    with pytest.raises(
        DataError, match=r"train.csv line 4: Path is 'CheXpert-v1\.0-small/patient00002.* 1 more such row"
    ):
        load_index(config)


BATCHES = {
    "CheXpert-v1.0 batch 1 (validate & csv)": ["train.csv", "valid.csv", "valid"],
    "CheXpert-v1.0 batch 2 (train 1)": [f"train/patient{number:05d}" for number in range(1, 8)],
    "CheXpert-v1.0 batch 3 (train 2)": [f"train/patient{number:05d}" for number in range(8, 15)],
    "CheXpert-v1.0 batch 4 (train 3)": [f"train/patient{number:05d}" for number in range(15, 21)],
}


def unpack_batches(small, into):
    """The full-size download: tables in the first batch, training patients right inside the others."""
    for batch, members in BATCHES.items():
        for member in members:
            (into / batch).mkdir(parents=True, exist_ok=True)
            (small / member).rename(into / batch / member.removeprefix("train/"))
    shutil.rmtree(small)


@pytest.mark.parametrize("layout", ["small", "full", "inside", "batches", "one batch", "aimi"])
def test_every_layout_gives_the_same_records(make_chexpert, tmp_path, layout):
    config = make_chexpert(views="all")
    expected = load_index(config)
    small = tmp_path / "CheXpert-v1.0-small"
    if layout == "full":  # also a folder in a folder of the same name, as some archives unpack
        (tmp_path / "CheXpert-v1.0").mkdir()
        small.rename(tmp_path / "CheXpert-v1.0" / "CheXpert-v1.0")
    elif layout == "inside":
        config.root = str(small)
    elif layout == "batches":
        unpack_batches(small, tmp_path)
    elif layout == "one batch":
        unpack_batches(small, tmp_path)
        config.root = str(tmp_path / "CheXpert-v1.0 batch 3 (train 2)")
    elif layout == "aimi":
        unpack_batches(small, tmp_path / "chexpertchestxrays-u20210408")
    index = load_index(config)
    assert (len(index), index.left_out) == (48, {})
    assert np.array_equal(index.labels_NY, expected.labels_NY)
    assert (index.texts, index.patient_ids) == (expected.texts, expected.patient_ids)
    for path, same in zip(index.images.paths, expected.images.paths, strict=True):
        assert path.is_file()
        assert path.parts[-3:] == same.parts[-3:]


@given(st.permutations(range(19)))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_the_columns_does_not_matter(make_chexpert, tmp_path, order):
    config = make_chexpert(uncertain="lsr")
    before = load_index(config)
    for name in ("train", "valid"):
        path = tmp_path / "CheXpert-v1.0-small" / f"{name}.csv"
        rows = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text("\n".join(",".join(row[place] for place in order) for row in rows))
    after = load_index(config)
    np.testing.assert_array_equal(after.labels_NY, before.labels_NY)
    assert (after.texts, after.study_ids) == (before.texts, before.study_ids)


def add_public_test(root, draw, name, first=301, count=4):
    """Test images of AIMI, and study-level labels as rajpurkarlab/cheXpert-test-set-labels has them."""
    lines = ["Study," + ",".join(CHEXPERT)]
    for patient in range(first, first + count):
        for view in ("view1_frontal", "view2_lateral", "view3_frontal")[: 1 + patient % 3]:
            draw(root / f"test/patient{patient}/study1/{view}.jpg", 50)
        lines.append(
            f"CheXpert-v1.0/test/patient{patient}/study1," + ",".join("1" if patient % 2 else "0" for _ in CHEXPERT)
        )
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(lines))


@pytest.mark.parametrize("name", ["groundtruth.csv", "test_labels/groundtruth.csv", "test_labels.csv"])
def test_public_test_labels_are_by_study(make_chexpert, tmp_path, draw, name):
    config = make_chexpert(views="all")
    add_public_test(tmp_path / "CheXpert-v1.0-small", draw, name)
    index = load_index(config)
    test = index.take(np.flatnonzero(index.splits == "test"))
    # patients 301 to 304 have 2, 3, 1 and 2 views; their label is their number's parity
    assert [patient[-3:] for patient in test.patient_ids] == ["301", "301", "302", "302", "302", "303", "304", "304"]
    assert column(test, "Edema").tolist() == [1, 1, 0, 0, 0, 1, 0, 0]
    assert test.texts[:2] == ["Chest radiograph, frontal view.", "Chest radiograph, lateral view."]
    assert (index.splits == "validation").sum() == 8
    config.views = "frontal"
    assert (load_index(config).splits == "test").sum() == 5
    shutil.rmtree(tmp_path / "CheXpert-v1.0-small/test/patient302")
    with pytest.raises(DataError, match="1 of 28 images are not on disk, the first is test/patient302/study1"):
        load_index(config)


def test_a_test_table_by_image_without_age_sex_and_view(make_chexpert, tmp_path, draw):
    config = make_chexpert()
    folder = tmp_path / "CheXpert-v1.0-small"
    lines = ["Path," + ",".join(CHEXPERT)]
    for view in ("view1_frontal", "view2_lateral"):
        draw(folder / f"test/patient9/study1/{view}.jpg", 50)
        lines.append(f"test/patient9/study1/{view}.jpg" + ",1.0" * 14)
    (folder / "test_labels.csv").write_text("\n".join(lines))
    index = load_index(config)
    assert (index.splits == "test").sum() == 1
    assert index.texts[-1] == "Chest radiograph, frontal view."


def test_soft_targets_stay_in_training(make_chexpert):
    index = load_index(make_chexpert(uncertain="lsr", validation_fraction=0.3))
    edema, train = column(index, "Edema"), index.splits == "train"
    assert ((edema[train] > 0.5) & (edema[train] < 1)).all()
    assert np.isnan(edema[~train]).all()
    assert (index.splits == "validation").any()
    others = np.delete(index.labels_NY, index.label_space.labels.index("Edema"), axis=1)
    assert set(np.unique(others)) == {0, 1}


def test_a_site_of_soft_positives_alone_can_be_learned_from(make_chexpert, tmp_path):
    config = make_chexpert(uncertain="lsr")
    for name in ("train", "valid"):
        path = tmp_path / "CheXpert-v1.0-small" / f"{name}.csv"
        lines = path.read_text().replace("1.0,", "-1.0,").replace("--1.0", "-1.0").splitlines()
        path.write_text("\n".join(lines).replace("-v-1.0", "-v1.0"))
    index = load_index(config)
    effusion = column(index, "Pleural Effusion")[index.splits == "train"]
    assert 0.5 < effusion.max() < 1


def test_other_projections_and_unknown_sex(make_chexpert, tmp_path):
    config = make_chexpert()
    path = tmp_path / "CheXpert-v1.0-small/train.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace(",Female,0,Frontal,AP", ",Unknown,0,Frontal,LL")
    lines[3] = lines[3].replace(",Female,60,Frontal,AP", ",,60,Frontal,RL")
    path.write_text("\n".join(lines))
    assert load_index(config).texts[:2] == [
        "Chest radiograph, frontal view.", "Chest radiograph, frontal view. 60-year-old patient.",
    ]  # fmt: skip


def test_every_malformed_row_is_counted(make_chexpert, tmp_path):
    config = make_chexpert()
    path = tmp_path / "CheXpert-v1.0-small/train.csv"
    lines = path.read_text().splitlines()
    lines[5] = lines[5].replace("-1.0", "maybe")
    lines[6] = lines[6].replace("-1.0", "maybe")
    path.write_text("\n".join([*lines, lines[2]]))
    with pytest.raises(DataError, match=r"line 42: Path 'CheXpert.*' is there twice.* \(and 2 more such rows"):
        load_index(config)


def test_tables_written_on_windows(make_chexpert, tmp_path):
    config = make_chexpert()
    before = load_index(config)
    for path in (tmp_path / "CheXpert-v1.0-small").glob("*.csv"):
        header, _, rows = path.read_text().partition("\n")
        rows = "\r\n".join(row.partition(",")[0].replace("/", "\\") + row[row.index(",") :] for row in rows.split("\n"))
        path.write_bytes(f"\ufeff{header}\r\n{rows}\r\n".encode())
    assert load_index(config).images.paths == before.images.paths


def test_a_table_whose_every_row_is_malformed(make_chexpert, tmp_path):
    config = make_chexpert()
    path = tmp_path / "CheXpert-v1.0-small/train.csv"
    path.write_text(path.read_text().replace("/patient", "/subject"))
    with pytest.raises(DataError, match=r"line 2: Path is 'CheXpert.*subject00001.*\(and 39 more such rows"):
        load_index(config)
