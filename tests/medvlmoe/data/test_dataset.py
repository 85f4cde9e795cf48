import importlib.resources
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from medvlmoe.configuration import from_mapping
from medvlmoe.data import (
    Batch,
    DataConfig,
    LabelSpace,
    build_dataset,
    concatenate,
    load_tokenizer,
    site_label_space,
)
from medvlmoe.errors import ConfigError, DataError
from tests.medvlmoe.data.conftest import draw, manifest_rows


def equal(first: Batch, second: Batch) -> bool:
    tensors = [(getattr(first, name), getattr(second, name)) for name in
               ("image_BCHW", "input_ids_BL", "attention_mask_BL", "labels_BY")]  # fmt: skip
    same = all(torch.equal(torch.nan_to_num(a, -9), torch.nan_to_num(b, -9)) for a, b in tensors)
    return same and first.patient_ids == second.patient_ids and first.study_ids == second.study_ids


def test_a_batch_is_its_records_in_the_order_asked_for(make_manifest, build):
    dataset = build(make_manifest())
    batch = dataset.__getitems__([5, 0, 5])
    assert len(dataset) == 36
    assert batch.image_BCHW.shape == (3, 3, 16, 16)
    assert batch.image_BCHW.dtype == batch.labels_BY.dtype == torch.float32
    assert batch.input_ids_BL.dtype == batch.attention_mask_BL.dtype == torch.int64
    assert batch.patient_ids == ["P2", "P0", "P2"]
    for place, row in enumerate([5, 0, 5]):
        assert torch.equal(batch.image_BCHW[place], dataset[row].image_BCHW[0])
        assert torch.equal(torch.nan_to_num(batch.labels_BY[place]), torch.nan_to_num(dataset[row].labels_BY[0]))


def test_pixels_are_normalised_and_grey_is_repeated(make_nih, build):
    dataset = build(make_nih(), mean=[0.5, 0.4, 0.0], std=[0.5, 0.2, 1.0])
    row = dataset.study_ids.index("00000021_001")
    image_CHW = dataset[row].image_BCHW[0]
    value = 41  # the left half of the 42nd image was drawn with it
    expected = [(value / 255 - 0.5) / 0.5, (value / 255 - 0.4) / 0.2, value / 255]
    torch.testing.assert_close(image_CHW[:, 8, 2], torch.tensor(expected))


def test_one_channel_models(make_manifest, build):
    assert build(make_manifest(), channels=1)[0].image_BCHW.shape == (1, 1, 16, 16)


def test_labels_of_other_sites_are_unknown(make_manifest, build):
    config = make_manifest()
    union = LabelSpace.union(
        [LabelSpace.known("chestxray14"), LabelSpace.single("mine", "multilabel", ["Effusion", "Stent"])]
    )
    labels_BY = build(config, label_space=union)[1].labels_BY[0]
    known = [label for label, value in zip(union.labels, labels_BY, strict=True) if not value.isnan()]
    assert known == ["Pleural Effusion", "Stent"]


def test_a_space_that_lacks_the_sites_labels_is_refused(make_manifest, build):
    with pytest.raises(ConfigError, match="'Stent'"):
        build(make_manifest(), label_space=LabelSpace.known("chestxray14"))


def test_texts_are_cut_to_the_longest_of_the_batch(make_manifest, build, words):
    dataset = build(make_manifest())
    batch = dataset[0]
    assert batch.input_ids_BL.shape == (1, 1 + len("Medical image, PA view. 20-year-old male."))
    assert batch.attention_mask_BL.all()
    assert words(dataset)[1] == "Medical image, PA view. 21-year-old female."


def test_rows_are_checked(make_manifest, build):
    dataset = build(make_manifest())
    for rows in ([], [36], [-1]):
        with pytest.raises(IndexError):
            dataset.__getitems__(rows)


def test_pooling_one_site_changes_nothing(make_manifest, build):
    dataset = build(make_manifest())
    rows = list(range(len(dataset)))
    assert equal(concatenate([dataset]).__getitems__(rows), dataset.__getitems__(rows))


def test_pooled_rows_are_the_sites_rows(make_manifest, make_nih, build):
    union = LabelSpace.union(
        [LabelSpace.known("chestxray14"), LabelSpace.single("mine", "multilabel", ["Effusion", "Stent"])]
    )
    first, second = build(make_manifest(), label_space=union), build(make_nih(), label_space=union)
    pool = concatenate([first, second, first])
    assert len(pool) == 2 * len(first) + len(second)
    for row, dataset, own in ((3, first, 3), (len(first) + 4, second, 4), (len(pool) - 1, first, len(first) - 1)):
        assert equal(pool[row], dataset[own])
    mixed = [len(first) + 4, 3, len(pool) - 1, len(first)]
    batch = pool.__getitems__(mixed)
    for place, row in enumerate(mixed):
        assert torch.equal(batch.image_BCHW[place], pool[row].image_BCHW[0])
        length = pool[row].input_ids_BL.shape[1]
        assert torch.equal(batch.input_ids_BL[place, :length], pool[row].input_ids_BL[0])
        assert batch.patient_ids[place] == pool[row].patient_ids[0]
    assert torch.equal(pool.labels_NY.nan_to_num(-1)[mixed], batch.labels_BY.nan_to_num(-1))


def test_pooling_refuses_what_does_not_fit(make_manifest, build):
    config = make_manifest()
    first = build(config)
    with pytest.raises(ConfigError, match="no site"):
        concatenate([])
    with pytest.raises(ConfigError, match="max_tokens"):
        concatenate([first, build(config, max_tokens=9)])
    other = LabelSpace.union([first.label_space, LabelSpace.known("chexpert")])
    with pytest.raises(ConfigError, match="label spaces"):
        concatenate([first, build(config, label_space=other)])


def test_worker_processes_do_not_copy_the_images(make_manifest, build):
    dataset = build(make_manifest(), image_size=64)
    first = dataset[0]
    assert len(pickle.dumps(dataset)) < 60_000 < 36 * 3 * 64 * 64
    assert equal(pickle.loads(pickle.dumps(dataset))[0], first)


def test_a_torch_loader_takes_whole_batches(make_manifest, build):
    loader = DataLoader(build(make_manifest()), batch_size=10, collate_fn=lambda batch: batch)
    assert [len(batch) for batch in loader] == [10, 10, 10, 6]


def test_bad_images_stop_or_are_skipped_and_counted(make_manifest, build, tmp_path):
    config = make_manifest()
    whole = build(config)
    damaged = tmp_path / "images" / "002.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(DataError, match=r"002\.png: unreadable image"):
        build(config)
    config.on_bad_image = "skip"
    dataset = build(config)
    assert dataset.left_out == {"unreadable image": 1}
    rows = [row for row in range(36) if whole.study_ids[row] != "images/002.png"]
    assert equal(dataset.__getitems__(range(35)), whole.__getitems__(rows))


def test_when_every_image_is_bad_the_split_is_empty(make_manifest, build, tmp_path):
    config = make_manifest(config={"on_bad_image": "skip"})
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"the train split is empty \(left out: 36 unreadable image\)"):
        build(config)


def test_an_empty_split_is_named(make_manifest, manifest_rows, build):
    rows = manifest_rows()
    for row in rows:
        row["part"] = "train"
    with pytest.raises(DataError, match="the test split is empty"):
        build(make_manifest(rows), "test")


def test_arguments_are_checked(make_manifest, build):
    for arguments in ({"split": "valid"}, {"channels": 2}, {"mean": [0.1, 0.2]}):
        with pytest.raises(ConfigError):
            build(make_manifest(), **arguments)


def test_roots_are_taken_from_data_root(make_manifest, build, tmp_path):
    config = make_manifest(config={"root": tmp_path.name})
    space = LabelSpace.single("mine", "multilabel", ["Effusion", "Stent"])
    assert len(build(config, label_space=space, data_root=tmp_path.parent)) == 36
    assert config.folder(None) == Path(tmp_path.name)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("site", ["chestxray14", "chexpert", "mimic_cxr", "pathmnist", "retinamnist"])
def test_phantoms_in_official_layouts(phantom_root, tmp_path, site, split):
    values = yaml.safe_load((importlib.resources.files("configs") / "data" / "phantom.yaml").read_text())
    sites = from_mapping(DataConfig, values).sites
    union = LabelSpace.union([site_label_space(config, phantom_root) for config in sites.values()])
    dataset = build_dataset(
        sites[site], split, label_space=union, image_size=32, tokenizer=load_tokenizer("byte"), max_tokens=200,
        cache=tmp_path, data_root=phantom_root,
    )  # fmt: skip
    batch = dataset.__getitems__(range(len(dataset)))
    assert torch.isfinite(batch.image_BCHW).all()
    assert (~batch.labels_BY.isnan()).any(dim=1).all()
    assert set(batch.labels_BY.nan_to_num().unique().tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("column", "value"),
    [("effusion", 1), ("stent", ""), ("patient", "P1"), ("sex", "F"), ("view", "AP"), ("age", 70)],
)
def test_the_digest_changes_with_any_record(make_manifest, build, column: str, value: object) -> None:
    before = build(make_manifest()).digest()
    assert build(make_manifest()).digest() == before
    rows = manifest_rows()
    rows[0][column] = value
    assert build(make_manifest(rows)).digest() != before
    fewer = [row for row in manifest_rows() if row["patient"] != "P0"]
    assert build(make_manifest(fewer)).digest() != before, "a patient has withdrawn"


def test_the_digest_changes_with_an_image_and_with_what_is_made_of_it(make_manifest, build, tmp_path: Path) -> None:
    before = build(make_manifest()).digest()
    assert build(make_manifest(), channels=1).digest() != before
    assert build(make_manifest(config={"augmentation": "fundus"})).digest() != before
    draw(tmp_path / "images" / "000.png", 99)
    assert build(make_manifest()).digest() != before
