import numpy as np
import pytest

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
