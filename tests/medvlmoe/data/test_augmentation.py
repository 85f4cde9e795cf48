import nibabel
import numpy as np
import pytest
import torch

from medvlmoe.data import LabelSpace, concatenate
from medvlmoe.data.augmentation import augmented
from medvlmoe.data.config import MODALITIES
from medvlmoe.errors import ConfigError
from medvlmoe.training.batches import load_batches

SEEDS = np.arange(200)
FLAT = [modality for modality in MODALITIES if modality != "volume"]


@pytest.mark.parametrize("modality", FLAT)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_follows_from_its_own_seed(modality, channels):
    pixels = torch.randint(0, 256, (6, channels, 20, 20), dtype=torch.uint8)
    torch.manual_seed(1)
    whole = augmented(pixels, modality, SEEDS[:6])
    torch.manual_seed(2)
    turned = augmented(pixels.flip(0), modality, SEEDS[:6][::-1])
    assert whole.shape == pixels.shape
    assert whole.dtype == torch.uint8
    assert torch.equal(whole, turned.flip(0))
    assert torch.equal(whole[3:4], augmented(pixels[3:4], modality, SEEDS[3:4]))
    assert not torch.equal(whole, augmented(pixels, modality, SEEDS[6:12]))


def test_no_other_random_stream_is_touched():
    before = torch.get_rng_state()
    augmented(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "chest", SEEDS[:2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("modality", "mirrors"), [("chest", False), ("pathology", True), ("fundus", True)])
def test_the_heart_stays_on_its_side(modality, mirrors):
    pixels = torch.zeros(len(SEEDS), 3, 32, 32, dtype=torch.uint8)
    pixels[:, :, :, 19:28] = 200
    left, right = augmented(pixels, modality, SEEDS).float().mean(dim=(1, 2)).tensor_split(2, dim=1)
    assert bool((left.mean(dim=1) > right.mean(dim=1)).any()) == mirrors


def test_tissue_is_laid_down_in_all_eight_ways_without_resampling():
    shape = torch.zeros(1, 9, 9, dtype=torch.uint8)
    shape[0, 1:8, 2] = shape[0, 1, 2:6] = 150  # a letter that no turn or mirror gives back
    ways = {
        tuple(way.flatten().tolist())
        for turned in (shape.rot90(turns, (1, 2)) for turns in range(4))
        for way in (turned > 0, turned.flip(2) > 0)
    }
    assert len(ways) == 8
    out = augmented(shape.expand(len(SEEDS), 1, 9, 9), "pathology", SEEDS)
    assert {tuple((image > 75).flatten().tolist()) for image in out} == ways


@pytest.mark.parametrize("modality", FLAT)
def test_changes_are_mild(modality):
    square = torch.zeros(len(SEEDS), 3, 40, 40, dtype=torch.uint8)
    square[:, :, 12:28, 12:28] = 120
    out = augmented(square, modality, SEEDS).float()
    visible = (out > 30).float().mean(dim=(1, 2, 3))
    assert float(visible.min() / 0.16) > 0.75 and float(visible.max() / 0.16) < 1.3
    assert float(out.amax(dim=(1, 2, 3)).min()) > 90 and float(out.max()) < 160


def test_the_slices_of_a_volume_move_together():
    pixels = torch.zeros(len(SEEDS), 1, 10, 24, 24, dtype=torch.uint8)
    pixels[..., 6:20, 4:9] = 200  # on one side, the same in every slice
    out = augmented(pixels, "volume", SEEDS)
    assert out.shape == pixels.shape
    shifts = set()
    for volume_DSS in out[:, 0]:
        filled = (volume_DSS.flatten(1) > 0).any(dim=1)
        slices = volume_DSS[filled]
        assert bool((slices == slices[0]).all())  # one move in the plane for the whole volume
        assert slices[0, :, :12].sum() > slices[0, :, 12:].sum()  # left stays left
        empty = (~filled).nonzero().flatten().tolist()
        shifts.add(0 if not empty else len(empty) * (1 if empty[0] == 0 else -1))
    assert shifts == {-1, 0, 1}


def test_training_sees_changed_images_and_nothing_else_does(make_nih, build):
    dataset = build(make_nih())
    rows = list(range(len(dataset)))
    plain = dataset.__getitems__(rows).image_BCHW
    trained = dataset.at_epoch(0, 0).__getitems__(rows)
    assert not torch.equal(trained.image_BCHW, plain)
    assert torch.equal(dataset.__getitems__(rows).image_BCHW, plain)
    assert trained.study_ids == dataset.__getitems__(rows).study_ids


def test_a_row_depends_on_seed_and_epoch_but_not_on_its_batch_or_worker(make_nih, build):
    view = build(make_nih()).at_epoch(3, 5)
    batches = [[7, 2, 9], [0, 1], [30]]
    by_workers = list(load_batches(view, batches, workers=2))
    for rows, batch in zip(batches, by_workers, strict=True):
        assert torch.equal(batch.image_BCHW, torch.cat([view[row].image_BCHW for row in rows]))
    again, epoch, seed = (build(make_nih()).at_epoch(*when)[7].image_BCHW for when in ((3, 5), (3, 6), (4, 5)))
    assert torch.equal(again, view[7].image_BCHW)
    assert not torch.equal(epoch, again)
    assert not torch.equal(seed, again)


def test_one_stored_channel_is_changed_once(make_nih, build):
    image_CHW = build(make_nih()).at_epoch(0, 0)[4].image_BCHW[0]
    assert torch.equal(image_CHW[0], image_CHW[1])


def test_pooled_rows_are_changed_by_their_own_site(make_nih, make_manifest, build):
    union = LabelSpace.union(
        [LabelSpace.known("chestxray14"), LabelSpace.single("mine", "multilabel", ["Effusion", "Stent"])]
    )
    chest, other = build(make_nih(), label_space=union), build(make_manifest(), label_space=union)
    pool, first = concatenate([chest, other]), len(chest)
    batch = pool.at_epoch(0, 0).__getitems__([first + 3, 5, first, 8])
    assert torch.equal(batch.image_BCHW[[1, 3]], chest.at_epoch(0, 0).__getitems__([5, 8]).image_BCHW)
    assert torch.equal(batch.image_BCHW[[0, 2]], other.__getitems__([3, 0]).image_BCHW)


@pytest.mark.parametrize("chosen", ["auto", "none", *FLAT])
def test_the_site_chooses(make_nih, build, chosen):
    dataset = build(make_nih(augmentation=chosen))
    expected = "chest" if chosen == "auto" else chosen
    assert dataset.notes["augmentation"] == expected
    same = build(make_nih(augmentation=expected))
    rows = list(range(20))
    changed = dataset.at_epoch(0, 0).__getitems__(rows).image_BCHW
    assert torch.equal(changed, same.at_epoch(0, 0).__getitems__(rows).image_BCHW)
    assert torch.equal(changed, dataset.__getitems__(rows).image_BCHW) == (chosen == "none")


def test_a_manifest_tells_what_its_images_show(make_manifest, build):
    assert build(make_manifest()).notes["augmentation"] == "none"
    assert build(make_manifest(modality="fundus")).notes["augmentation"] == "fundus"
    with pytest.raises(ConfigError, match="modality is 'knee'; use one of chest, pathology"):
        build(make_manifest(modality="knee"))


def test_what_does_not_fit_is_refused(make_nih, build):
    with pytest.raises(ConfigError, match="augmentation=mirror: use one of auto, none, chest"):
        make_nih(augmentation="mirror")
    with pytest.raises(ConfigError, match="augmentation=volume is not for flat images; use auto or none"):
        build(make_nih(augmentation="volume"))


def test_volumes_are_changed_as_volumes(make_manifest, manifest_rows, build, tmp_path):
    rows = manifest_rows(12)
    for number, row in enumerate(rows):
        row["file"] = f"{number}.nii.gz"
        voxels = np.random.default_rng(number).integers(0, 99, (8, 8, 6)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / row["file"])
    dataset = build(make_manifest(rows, modality="chest"), image_size=8, image_depth=6, channels=1)
    assert dataset.notes["augmentation"] == "volume"
    assert not torch.equal(dataset.at_epoch(0, 0)[1].image_BCHW, dataset[1].image_BCHW)
    with pytest.raises(ConfigError, match="augmentation=chest is not for volumes; use auto or none"):
        build(make_manifest(rows, config={"augmentation": "chest"}), image_size=8, image_depth=6, channels=1)
