import numpy as np
import pytest

from medvlmoe.data import DatasetConfig, load_index, site_label_space
from medvlmoe.data.loaders.manifest_file import load_manifest
from medvlmoe.errors import ConfigError, DataError, UserError


def refused(call, message: str, kind: type[UserError]) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_rows_become_records(make_manifest, tmp_path):
    index = load_index(make_manifest())
    assert len(index) == 60
    assert index.label_space.labels == ("Pleural Effusion", "Stent")
    np.testing.assert_array_equal(index.labels_NY[:3], [[0, 0], [1, 1], [0, np.nan]])
    assert index.patient_ids[:3] == ["P0", "P0", "P1"]
    assert index.images.paths[3] == tmp_path / "images/003.png"
    assert index.texts[0] == "Medical image, PA view. 20-year-old male."
    assert index.splits[:10].tolist() == ["train"] * 6 + ["validation"] * 2 + ["test"] * 2


def test_the_label_space_is_known_without_the_table(make_manifest, tmp_path):
    config = make_manifest()
    (tmp_path / "table.csv").unlink()
    assert site_label_space(config).labels == ("Pleural Effusion", "Stent")


def test_classes_are_one_hot_and_an_empty_class_is_left_out(make_manifest, manifest_rows):
    rows = manifest_rows()
    rows[4]["grade"], rows[5]["grade"] = "", "2.0"
    classes = {"0": "none", "1": "low", "2": "high"}
    config = make_manifest(rows, labels=None, task="ordinal", **{"class": "grade"}, classes=classes)
    index = load_index(config)
    assert index.label_space.labels == ("mine/none", "mine/low", "mine/high")
    assert index.left_out == {"no known label": 1}
    assert (index.labels_NY.sum(axis=1) == 1).all()
    assert index.labels_NY[:5].argmax(axis=1).tolist() == [0, 1, 2, 0, 2]


def test_two_values_may_mean_one_class(make_manifest):
    classes = {0: "no", 1: "yes", 2: "yes"}
    config = make_manifest(labels=None, task="multiclass", **{"class": "grade"}, classes=classes)
    assert load_index(config).labels_NY.sum(axis=0).tolist() == [20, 40]


def test_a_known_space_needs_no_classes(make_manifest):
    config = make_manifest(labels=None, task="ordinal", label_space="diabetic_retinopathy", **{"class": "grade"})
    index = load_index(config)
    assert len(index.label_space) == 5
    assert index.labels_NY.sum(axis=0).tolist() == [20, 20, 20, 0, 0]


def test_a_known_multilabel_space_keeps_its_other_labels_unknown(make_manifest):
    index = load_index(make_manifest(label_space="chestxray14", labels={"effusion": "Effusion"}))
    assert len(index.label_space) == 14
    assert np.isnan(index.labels_NY).sum() == 60 * 13


@pytest.mark.parametrize(("policy", "value"), [("zeros", 0.0), ("ones", 1.0), ("ignore", np.nan)])
def test_uncertain_labels(make_manifest, manifest_rows, policy, value):
    rows = manifest_rows()
    rows[0]["effusion"] = -1
    np.testing.assert_equal(load_index(make_manifest(rows, config={"uncertain": policy})).labels_NY[0, 0], value)


def test_validation_is_cut_from_train_where_the_table_has_none(make_manifest, manifest_rows):
    rows = manifest_rows(200)
    for row in rows:
        row["part"] = {"validation": "train"}.get(row["part"], row["part"])
    index = load_index(make_manifest(rows, config={"validation_fraction": 0.3}))
    assert (index.splits == "test").sum() == 40
    assert 20 < (index.splits == "validation").sum() < 80


@pytest.mark.parametrize("word", ["val", "valid", "Validation", "VALIDATE"])
def test_words_for_validation(make_manifest, manifest_rows, word):
    rows = manifest_rows()
    for row in rows:
        row["part"] = {"validation": word}.get(row["part"], row["part"])
    assert (load_index(make_manifest(rows)).splits == "validation").sum() == 12


def test_split_by_patient_needs_no_column(make_manifest):
    index = load_index(make_manifest(split=None, config={"split": "patient"}))
    for part in ("train", "validation", "test"):
        inside = {patient for patient, split in zip(index.patient_ids, index.splits, strict=True) if split == part}
        outside = {patient for patient, split in zip(index.patient_ids, index.splits, strict=True) if split != part}
        assert not inside & outside


def test_without_a_patient_column_the_image_is_the_unit(make_manifest):
    index = load_index(make_manifest(patient=None))
    assert len(set(index.patient_ids)) == 60
    assert index.notes["patients"] == "not told: every image is its own"


def test_records_without_a_patient_are_not_one_patient(make_manifest, manifest_rows):
    rows = manifest_rows()
    for row in rows:
        row["patient"] = ""
    assert len(set(load_index(make_manifest(rows)).patient_ids)) == 60


def test_shares_of_two_hospitals_are_disjoint_and_whole(make_manifest):
    halves = []
    for number in (0, 1):
        config = make_manifest(config={"split": "patient", "partition_count": 2, "partition_index": number})
        halves.append(set(load_index(config).patient_ids))
    assert not halves[0] & halves[1]
    assert len(halves[0] | halves[1]) == 30


def test_a_packaged_manifest_is_found_by_name(tmp_path):
    config = DatasetConfig(kind="manifest", root=str(tmp_path), manifest="idrid")
    assert site_label_space(config).labels[0] == "diabetic_retinopathy/none"


def test_the_sites_own_file_wins_over_a_packaged_one(make_manifest, tmp_path):
    config = make_manifest(config={"manifest": "idrid"})
    (tmp_path / "manifest.yaml").rename(tmp_path / "idrid")
    assert site_label_space(config).name == "mine"


def test_the_note_is_read_only_when_the_leak_is_accepted(make_manifest):
    assert "note" not in " ".join(load_index(make_manifest()).texts)
    config = make_manifest(config={"text": "report", "allow_label_leak": True})
    assert load_index(config).texts[:2] == ["note 0", "note 1"]


def test_another_encoding_must_be_declared(make_manifest, manifest_rows, write_csv, tmp_path):
    rows = manifest_rows()
    rows[7]["note"] = "Pleuraerguß"
    config = make_manifest(rows)
    write_csv(tmp_path / "table.csv", rows, encoding="cp1252")
    refused(lambda: load_index(config), r"line 9\) is 0xdf; declare its 'encoding' in .*manifest.yaml", DataError)
    config = make_manifest(rows, encoding="cp1252", config={"text": "report", "allow_label_leak": True})
    write_csv(tmp_path / "table.csv", rows, encoding="cp1252")
    assert load_index(config).texts[7] == "Pleuraerguß"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"labelz": "x"}, "unknown key 'labelz'"),
        ({"image": None}, "key 'image' is missing"),
        ({"image": ["a"]}, "'image' must be a text"),
        ({"labels": "effusion"}, "'labels' must be a mapping"),
        ({"labels": {"effusion": ["x"]}}, "'labels: effusion' must be a text"),
        ({"labels": None}, "needs the key 'labels'"),
        ({"task": "regression"}, "use one of multilabel"),
        ({"class": "grade"}, "'class' does not belong to task multilabel"),
        ({"task": "ordinal"}, "needs the key 'class'"),
        ({"task": "ordinal", "labels": None, "class": "grade"}, "needs its classes"),
        ({"task": "ordinal", "labels": None, "class": "grade", "classes": {True: "yes"}}, "put quotes"),
        ({"label_space": "chexpert", "labels": {"effusion": "Rash"}}, "'Rash' is not in the label space chexpert"),
        ({"label_space": "diabetic_retinopathy"}, "is ordinal, not multilabel"),
        ({"label_space": "chexpert", "labels": {"a": "Effusion", "b": "pleural effusion"}}, "two columns"),
        ({"context": {"smoker": "age"}}, "context 'smoker'; use age, sex, view"),
        ({"context": {"view": "effusion"}}, "column of the target"),
        ({"context": {"view": "note"}}, "column of the target or the text"),
    ],
)
def test_mistakes_in_the_manifest_are_named(make_manifest, keys, message):
    refused(lambda: site_label_space(make_manifest(**keys)), message, ConfigError)


def test_mistakes_in_the_file_itself(make_manifest, tmp_path):
    config = make_manifest()
    for content, message in (("a: [", "not YAML"), ("- a", "not a mapping")):
        (tmp_path / "manifest.yaml").write_text(content)
        refused(lambda: load_manifest(config, tmp_path), message, ConfigError)
    (tmp_path / "manifest.yaml").unlink()
    refused(lambda: load_manifest(config, tmp_path), "no manifest .*manifest.yaml", ConfigError)


def change(rows, key, value, row=None):
    for number, line in enumerate(rows):
        if row is None or number == row:
            line[key] = value
    return rows


@pytest.mark.parametrize(
    ("key", "value", "row", "message"),
    [
        ("effusion", 3, 4, "table.csv line 6: effusion is '3'; allowed: 1, 0"),
        ("part", "holdout", 5, "line 7: part is 'holdout'; allowed: train"),
        ("part", "", 5, "line 7: part is ''"),
        ("part", "test", 0, "patient P0 is in more than one split"),
        ("part", "test", None, "no record is in the train split"),
        ("effusion", 1, None, "no label has both a positive and a negative"),
        ("file", "images/absent.png", 3, "1 of 60 images are not on disk, the first is images/absent.png"),
    ],
)
def test_mistakes_in_the_table_are_named(make_manifest, manifest_rows, tmp_path, key, value, row, message):
    config = make_manifest(change(manifest_rows(), key, value, row), labels={"effusion": "Effusion"})
    (tmp_path / "images" / "absent.png").unlink(missing_ok=True)
    refused(lambda: load_index(config), message, DataError)


def test_absent_images_are_left_out_and_counted_when_asked_for(make_manifest, manifest_rows, tmp_path):
    config = make_manifest(config={"allow_subset": True})
    for number in (3, 9):
        (tmp_path / f"images/{number:03d}.png").unlink()
    index = load_index(config)
    assert len(index) == 58
    assert index.left_out == {"image not on disk": 2}
    assert "P1" in index.patient_ids


def test_a_class_that_is_not_listed(make_manifest, manifest_rows):
    rows = change(manifest_rows(), "grade", 7, 2)
    classes = {"0": "none", "1": "low", "2": "high"}
    config = make_manifest(rows, labels=None, task="multiclass", **{"class": "grade"}, classes=classes)
    refused(lambda: load_index(config), "line 4: grade is '7'; allowed: 0, 1, 2, or empty", DataError)


def test_a_site_of_one_class(make_manifest, manifest_rows):
    rows = change(manifest_rows(), "grade", 1)
    config = make_manifest(rows, labels=None, task="multiclass", **{"class": "grade"}, classes={0: "a", 1: "b"})
    refused(lambda: load_index(config), "all 36 training records have the class 'mine/b'", DataError)


def test_an_empty_site(make_manifest, manifest_rows, tmp_path):
    config = make_manifest()
    header = (tmp_path / "table.csv").read_text().splitlines()[0]
    (tmp_path / "table.csv").write_text(header + "\n")
    refused(lambda: load_index(config), "the site is empty", DataError)
    config = make_manifest(change(change(manifest_rows(), "effusion", ""), "stent", ""))
    refused(lambda: load_index(config), r"the site is empty.*60 no known label", DataError)


def test_missing_columns_are_listed_with_those_there_are(make_manifest):
    config = make_manifest(patient="mrn", labels={"effusion": "Effusion", "rash": "Rash"})
    refused(lambda: load_index(config), "no column 'mrn', 'rash'; there are 'file', 'patient'", DataError)


def test_official_needs_a_split_column(make_manifest):
    refused(lambda: load_index(make_manifest(split=None)), "names no split column; set split=patient", ConfigError)


def test_missing_files(make_manifest, tmp_path):
    config = make_manifest()
    (tmp_path / "table.csv").unlink()
    refused(lambda: load_index(config), "table.csv: no such file", DataError)
    config = DatasetConfig(kind="manifest", root="absent")
    refused(lambda: load_index(config, tmp_path), "absent: no such folder; set data.root", DataError)


def test_a_redacted_note_has_no_sentence_that_names_a_label(make_manifest, manifest_rows):
    rows = manifest_rows()
    for row in rows:
        row["note"] = "Cough. Large effusion! Hydrothorax on the left. No stenting. Seen today."
    config = {"text": "redacted", "allow_label_leak": True}
    synonyms = {"Effusion": ["wet*"], "Stent": ["scaffold"]}
    (text,) = set(load_index(make_manifest(rows, config=config, synonyms=synonyms)).texts)
    assert text == "Cough. Seen today."
    rows[0]["note"] = "Wetness. A scaffold. Fine."
    assert load_index(make_manifest(rows, config=config, synonyms=synonyms)).texts[0] == "Fine."
    assert load_index(make_manifest(rows, config=config)).texts[0] == "Wetness. A scaffold. Fine."


@pytest.mark.parametrize(
    ("synonyms", "message"),
    [
        ({"Mass": ["lump"]}, "synonyms of 'Mass', which is none of the labels"),
        ({"Stent": "prosthesis"}, "must be a list of texts"),
        ({"Stent": ["*"]}, "must be a list of texts"),
        (["Stent"], "'synonyms' must be a mapping"),
    ],
)
def test_mistakes_in_the_synonyms(make_manifest, synonyms, message):
    with pytest.raises(ConfigError, match=message):
        load_index(make_manifest(synonyms=synonyms))


def test_an_image_that_is_there_twice_is_named(make_manifest, manifest_rows):
    """With another patient's name it could be trained on and tested on."""
    rows = manifest_rows()
    config = make_manifest([*rows, {**rows[3], "patient": "P99", "file": rows[3]["file"].replace("/", "\\")}])
    with pytest.raises(DataError, match=r"csv line 62: file 'images/003\.png' is there twice"):
        load_index(config)
