import hashlib

import nibabel
import numpy as np
import pytest
import torch
from pydicom import dcmread

from medvlmoe.data import DatasetConfig, LabelSpace, build_dataset, load_index, load_tokenizer, site_label_space
from medvlmoe.data.phantom import PhantomConfig, generate_phantoms
from medvlmoe.data.phantom.mark import NOTICE
from medvlmoe.data.phantom.volume_image import Mass, Scanner, chest_volume
from medvlmoe.errors import ConfigError

SITES = ("north", "south", "east")
QUIET = Scanner(noise=0, girth=1, offset=0)


def generate(root, **changes):
    values = {"images_per_site": 40, "image_size": 28, "benchmarks": ["volumes"], **changes}
    return generate_phantoms(PhantomConfig(root=str(root), **values))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("volumes")
    assert generate(root, images_per_site=100) == {"volumes": 300}
    return root


def state(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_volume_depends_on_the_seed_and_its_number_only(phantoms, tmp_path):
    generate(tmp_path / "fewer")
    generate(tmp_path / "other", seed=1)
    first, fewer, other = (state(root) for root in (phantoms, tmp_path / "fewer", tmp_path / "other"))
    volumes = [name for name in fewer if name.endswith((".gz", ".dcm"))]
    assert len(volumes) == 2 * 40 + 40 * 14
    assert all(first[name] == fewer[name] for name in volumes)
    assert not any(first[name] == other[name] for name in volumes)


def test_sites_are_hospitals_with_their_own_files(phantoms):
    for site in SITES:
        index = load_index(DatasetConfig(kind="manifest", root=str(phantoms / "volumes" / site)))
        assert len(index) == 100
        assert index.label_space.labels == ("Mass", "Large Mass", "Left-Sided Mass", "Pleural Effusion")
        assert (index.labels_NY[:, :2].mean(axis=0) > 0.2).all()
        assert (index.labels_NY[:, :1] >= index.labels_NY[:, 1:3]).all()  # none is large or left without being there
        assert {split: int((index.splits == split).sum()) for split in ("train", "validation", "test")} == {
            "train": 60, "validation": 15, "test": 25,
        }  # fmt: skip
        assert all(path.is_dir() == (site == "east") for path in index.images.paths)


def test_every_file_says_that_it_is_synthetic(phantoms):
    for file in (phantoms / "volumes").rglob("*.nii.gz"):
        assert bytes(nibabel.load(file).header["descrip"]).decode().startswith(NOTICE[:70])
    for file in (phantoms / "volumes/east/series/east-0003").iterdir():
        dataset = dcmread(file)
        assert (dataset.ImageComments, dataset.PatientIdentityRemoved) == (NOTICE, "YES")
    for site in SITES:
        assert NOTICE in (phantoms / "volumes" / site / "manifest.yaml").read_text()


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("radius", [0.1, 0.16])
def test_a_mass_lies_where_and_is_as_large_as_its_label_says(left, radius):
    shape = (24, 48, 48)

    def volume(mass):
        return chest_volume(mass, False, QUIET, shape, np.random.default_rng(5))

    without, found = volume(None), volume(Mass(left, radius))
    # Both use the same random numbers up to the mass, which is drawn last.
    differs_DHW = np.abs(found.astype(int) - without) > 300
    columns = np.flatnonzero(differs_DHW.any(axis=(0, 1)))
    assert (columns.mean() > 24) == left
    rows_share = np.ptp(np.flatnonzero(differs_DHW.any(axis=(0, 2)))) / 48
    assert rows_share == pytest.approx(2 * radius, abs=0.08)


def test_volumes_are_not_among_the_five_and_are_written_on_demand(tmp_path):
    assert "volumes" not in PhantomConfig(root=str(tmp_path)).benchmarks
    with pytest.raises(ConfigError, match=r"choose from .*retinamnist, volumes"):
        PhantomConfig(root=str(tmp_path), benchmarks=["volume"])


def test_the_truth_can_be_read_off_the_voxels_but_not_off_the_mean(phantoms, tmp_path):
    """A simple measurement finds the masses in each site's own format and orientation; the mean grey value does not."""
    from sklearn.metrics import roc_auc_score

    for site in SITES:
        config = DatasetConfig(kind="manifest", root=str(phantoms / "volumes" / site))
        dataset = build_dataset(
            config, "train", label_space=LabelSpace.union([site_label_space(config)]), image_size=32, image_depth=16,
            tokenizer=load_tokenizer("byte"), max_tokens=16, cache=tmp_path, channels=1,
        )  # fmt: skip
        batch = dataset.__getitems__(range(len(dataset)))
        middle_BDHW = batch.image_BCHW[:, 0, 5:11, 10:19]
        left, right = middle_BDHW[..., 16:].mean(dim=(1, 2, 3)), middle_BDHW[..., :16].mean(dim=(1, 2, 3))
        labels_BY = batch.labels_BY
        places = {label: place for place, label in enumerate(dataset.label_space.labels)}
        assert roc_auc_score(labels_BY[:, places["Mass"]], torch.maximum(left, right)) > 0.8
        assert roc_auc_score(labels_BY[:, places["Left-Sided Mass"]], left - right) > 0.8
        assert roc_auc_score(labels_BY[:, places["Mass"]], batch.image_BCHW.mean(dim=(1, 2, 3, 4))) < 0.75
