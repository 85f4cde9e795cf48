"""The loaders on real images. The folder lies beside the project and is absent on most machines."""

import dataclasses
import importlib.resources
from pathlib import Path

import numpy as np
import pytest
import yaml

from medvlmoe.configuration import from_mapping
from medvlmoe.data import DataConfig, DatasetConfig, LabelSpace, load_index, site_label_space
from medvlmoe.data.audit.config import LeakAuditConfig
from medvlmoe.data.audit.leak_audit import audit_site
from medvlmoe.data.known_labels import CHESTXRAY14
from medvlmoe.data.loaders.columns import files_below
from medvlmoe.data.loaders.records import Records

ROOT = Path(__file__).resolve().parents[3].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason=f"no real data at {ROOT}")

# Totals of the published table (v2020) and of its official parts.
TOTALS = dict(zip(CHESTXRAY14, [11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227],
                  strict=True))  # fmt: skip
TEST_TOTALS = dict(zip(CHESTXRAY14, [3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86],
                       strict=True))  # fmt: skip


@pytest.fixture(scope="module")
def sites() -> dict[str, DatasetConfig]:
    values = yaml.safe_load((importlib.resources.files("configs") / "data" / "real.yaml").read_text())
    return from_mapping(DataConfig, values).sites


def test_chestxray14_totals_of_the_whole_table(monkeypatch):
    # as if the image folder were complete
    monkeypatch.setattr(
        Records, "present", lambda self, rows=None: np.ones(len(self.names if rows is None else rows), bool)
    )
    index = load_index(DatasetConfig(kind="chestxray14", root=str(ROOT / "chestxray14")))
    assert len(index) == 112_120
    assert len(set(index.patient_ids)) == 30_805
    assert dict(zip(CHESTXRAY14, index.labels_NY.sum(axis=0), strict=True)) == TOTALS
    test = index.splits == "test"
    assert dict(zip(CHESTXRAY14, index.labels_NY[test].sum(axis=0), strict=True)) == TEST_TOTALS
    assert test.sum() == 25_596
    assert 0.08 < (index.splits == "validation").sum() / 86_524 < 0.12
    assert index.notes["labels"] == "v2020"
    assert sum("PA view" in text for text in index.texts) == 67_310
    assert sum(" male." in text for text in index.texts) == 63_340
    patients = {part: {index.patient_ids[row] for row in np.flatnonzero(index.splits == part)} for part in
                ("train", "validation", "test")}  # fmt: skip
    assert len(patients["test"]) == 2_797
    assert sum(map(len, patients.values())) == 30_805


def test_the_thousand_images_that_are_there(sites):
    assert len(files_below(ROOT / "chestxray14", ".png")) == 1000
    config = DatasetConfig(kind="chestxray14", root=str(ROOT / "chestxray14"), allow_subset=True)
    index = load_index(config)
    assert len(index) == 1000
    assert index.left_out == {"image not on disk": 111_120}
    assert len(set(index.patient_ids)) == 682
    assert (index.splits == "test").sum() == 153


def test_two_nih_hospitals_share_no_patient(sites):
    shares = [load_index(sites[name], ROOT) for name in ("nih_a", "nih_b")]
    assert sum(map(len, shares)) == 1000
    assert not set(shares[0].patient_ids) & set(shares[1].patient_ids)


def test_manifests(sites):
    covid, idrid, colorectal = (load_index(sites[name], ROOT) for name in ("covid", "idrid", "colorectal"))
    assert (len(covid), covid.left_out, covid.labels_NY.sum()) == (188, {"no known label": 62}, 116)
    assert idrid.labels_NY.sum(axis=0).tolist() == [168, 25, 168, 93, 62]
    assert (idrid.splits == "test").sum() == 103
    assert colorectal.labels_NY.sum(axis=0).tolist() == [500] * 5
    assert (colorectal.splits == "test").sum() == 500
    assert not any("COVID" in text or "pneumonia" in text for text in covid.texts)


def test_a_held_out_image_of_each_site_can_be_decoded(sites, build):
    union = LabelSpace.union([site_label_space(config, ROOT) for config in sites.values()])
    for name, config in sites.items():
        dataset = build(config, "validation", label_space=union, data_root=ROOT, image_size=32)
        spread = dataset.__getitems__(range(len(dataset))).image_BCHW.std(dim=(1, 2, 3))
        assert (spread > 0.05).all(), name


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("context", "passes"), ("demographics", "passes"), ("none", "passes"), ("report", "leaks"), ("redacted", "leaks")],
)
def test_the_audit_tells_that_the_clinical_notes_of_covid_leak(sites, text, verdict):
    config = dataclasses.replace(sites["covid"], text=text, allow_label_leak=True)
    assert audit_site(config, LeakAuditConfig(), ROOT).verdict == verdict


@pytest.mark.parametrize("site", ["nih_a", "nih_b", "idrid", "colorectal"])
def test_the_text_of_the_other_sites_passes(sites, site):
    assert audit_site(sites[site], LeakAuditConfig(), ROOT).verdict == "passes"
