"""Records that differ in nothing but their labels must read alike: a site's text never tells the target."""

import gzip
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from medvlmoe.data import DatasetConfig, load_index
from medvlmoe.data.known_labels import CHEXPERT

MODES = ["context", "demographics", "none"]


def texts(config: DatasetConfig) -> list[str]:
    index = load_index(config)
    assert len(np.unique(index.labels_NY, axis=0)) > 1
    return list(index.texts)


@pytest.mark.parametrize("mode", MODES)
def test_chestxray14(make_nih, mode):
    with_findings = texts(make_nih(text=mode))
    assert with_findings == texts(make_nih(["Mass", "Hernia|Fibrosis", "No Finding"], text=mode))


@pytest.mark.parametrize("mode", MODES)
def test_manifest(make_manifest, manifest_rows, mode):
    rows = manifest_rows()
    first = texts(make_manifest(rows, config={"text": mode}))
    for row in rows:
        row["effusion"], row["stent"], row["note"] = 1 - row["effusion"], row["effusion"], "large effusion"
    assert first == texts(make_manifest(rows, config={"text": mode}))


def test_a_context_column_that_tells_the_diagnosis_is_not_read(make_manifest, manifest_rows):
    rows = manifest_rows()
    for row in rows:
        row["view"] = "effusion" if row["effusion"] else "normal"
        row["age"], row["sex"] = 50, row["effusion"]
    assert set(texts(make_manifest(rows))) == {"Medical image. 50-year-old patient."}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("site", ["chexpert", "mimic_cxr"])
def test_chest_phantoms_with_shuffled_labels(phantom_root, tmp_path, mode, site):
    """Labels moved to other rows, and for MIMIC every conclusion replaced: the texts stay."""
    config = DatasetConfig(kind=site, root=str(tmp_path / site), text=mode)
    copy = tmp_path / site
    shutil.copytree(phantom_root / site, copy)
    before = load_index(config)
    texts_before = list(before.texts)  # MIMIC's reports are read when asked for: here, before they change
    for path in [*copy.rglob("*.csv"), *copy.rglob("*chexpert.csv.gz")]:
        invert_labels(path)
    for path in copy.rglob("s*.txt"):
        replaced = re.sub(r"(FINDINGS|IMPRESSION):.*", r"\1:  Fracture.", path.read_text(), flags=re.DOTALL)
        path.write_text(replaced)
    after = load_index(config)
    assert texts_before == list(after.texts)
    assert not np.array_equal(before.labels_NY, after.labels_NY)


def invert_labels(path):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for label in set(CHEXPERT) & set(table.columns):
        table[label] = np.where(table[label].isin(["1", "1.0"]), "0.0", "1.0")
    content = table.to_csv(index=False).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("kind", ["pathmnist", "retinamnist"])
def test_medmnist_prompts_are_constant(phantom_root, kind):
    assert len(set(texts(DatasetConfig(kind=kind, root=str(phantom_root / "medmnist"))))) == 1


@pytest.mark.parametrize(("mode", "told"), [("report", True), ("redacted", False), ("context", False)])
def test_reports_of_mimic_name_findings_and_redacted_ones_do_not(phantom_root, mode, told):
    root = str(phantom_root / "mimic_cxr")
    config = DatasetConfig(kind="mimic_cxr", root=root, text=mode, allow_label_leak=True, blank="ignore")
    found = [text for text in texts(config) if re.search("effusion|pneumothorax|cardiomegaly|edema|No acute", text)]
    assert bool(found) == told
