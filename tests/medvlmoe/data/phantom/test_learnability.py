import csv

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from medvlmoe.data.phantom import PhantomConfig, generate_phantoms

LEARNABLE = ("Cardiomegaly", "Effusion", "Edema", "Emphysema")


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, list[list[str]], np.ndarray]:
    """Features of downsampled pixels, labels, and whether an image is in the official test list."""
    root = tmp_path_factory.mktemp("learn") / "p"
    generate_phantoms(PhantomConfig(root=str(root), images_per_site=600, image_size=32, benchmarks=["chestxray14"]))
    folder = root / "chestxray14"
    rows = list(csv.DictReader((folder / "Data_Entry_2017_v2020.csv").read_text().splitlines()))
    test = set((folder / "test_list.txt").read_text().splitlines())
    features = []
    for row in rows:
        with Image.open(folder / "images" / row["Image Index"]) as image:
            pixels = np.asarray(image, dtype=float).reshape(16, 2, 16, 2).mean((1, 3)).ravel()
        features.append((pixels - pixels.mean()) / pixels.std())
    return (
        np.stack(features),
        [row["Finding Labels"].split("|") for row in rows],
        np.array([row["Image Index"] in test for row in rows]),
    )


def _auc(features: np.ndarray, present: np.ndarray, test: np.ndarray) -> float:
    model = Ridge(alpha=50.0).fit(features[~test], present[~test])
    return float(roc_auc_score(present[test], model.predict(features[test])))


def test_findings_can_be_learnt_but_not_perfectly(chests: tuple[np.ndarray, list[list[str]], np.ndarray]) -> None:
    features, labels, test = chests
    aucs = [_auc(features, np.array([name in found for found in labels]), test) for name in LEARNABLE]
    assert np.mean(aucs) > 0.7
    assert min(aucs) > 0.55
    assert max(aucs) < 0.999
    assert np.mean(aucs) < 0.97
