"""What makes a result old, and what does not."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from medvlmoe.configuration import compose
from medvlmoe.data.config import DatasetConfig
from simulation.reproduction.cell import identity_of
from simulation.reproduction.code_version import code_version, hash_sources
from simulation.reproduction.data_version import data_version
from strategies.run_config import RunConfig

SOURCE = '''"""A module."""

def double(x):
    """Twice."""
    # adds it to itself
    return x + x
'''


def version(root: Path, source: str, *, place: str = "medvlmoe/model/x.py", torch: str = "2.14") -> str:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return hash_sources(root, libraries={"torch": torch})


def test_words_and_layout_leave_the_code_as_it_is(tmp_path: Path) -> None:
    first = version(tmp_path, SOURCE)
    for source in (SOURCE.replace("Twice.", "Two times."), SOURCE.replace("    # adds it to itself\n", "\n\n")):
        assert version(tmp_path, source) == first
    assert version(tmp_path, SOURCE.replace("x + x", "2 * x")) != first
    assert version(tmp_path, SOURCE.replace("double", "twice")) != first
    assert version(tmp_path, SOURCE, torch="2.15") != first
    version(tmp_path, SOURCE)
    assert version(tmp_path, SOURCE, place="medvlmoe/analysis/y.py") == first, "tables are made from results"
    assert version(tmp_path, SOURCE, place="medvlmoe/data/y.py") != first


def test_the_code_has_one_version() -> None:
    assert code_version() == code_version() and len(code_version()) == 64


def test_every_choice_counts_but_not_where_results_go() -> None:
    config = compose(RunConfig, ["model=tiny"])

    def identity(config: RunConfig, *, data: str = "d", code: str = "c", start: str | None = None) -> str:
        return identity_of(config, data=[data], code=code, start=start)

    first = identity(config)
    for same in (
        replace(config, output=replace(config.output, root="elsewhere", name="other")),
        replace(config, resume=True),
        replace(config, data=replace(config.data, cache="elsewhere", workers=3)),
        replace(config, training=replace(config.training, workers=2)),
    ):
        assert identity(same) == first
    for other in (
        replace(config, seed=1),
        replace(config, training=replace(config.training, epochs=3)),
        replace(config, model=replace(config.model, moe=replace(config.model.moe, top_k=1))),
        replace(config, data=replace(config.data, augment=False)),
    ):
        assert identity(other) != first
    assert len({first, identity(config, data="e"), identity(config, code="e"), identity(config, start="s")}) == 4
    moved = replace(config, model=replace(config.model, moe=replace(config.model.moe, upcycle_from="/a/x")))
    assert identity(moved, start="s") == identity(config, start="s"), "the start counts by what it is"
    assert identity(moved) != first, "one that the user names is another model"


def test_the_precision_counts_by_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(precision: str) -> str:
        return identity_of(compose(RunConfig, ["model=tiny", f"training.precision={precision}"]), data=[], code="c")

    for has_bfloat16, same in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("medvlmoe.training.precision.cpu_has_bfloat16", lambda there=has_bfloat16: there)
        assert identity("auto") == identity(same)
    assert len({identity(name) for name in ("float32", "bfloat16", "float16")}) == 3, "float16: of another machine"


@pytest.mark.parametrize("key", ["model.vision.weights", "model.text.tokenizer", "model.moe.upcycle_from"])
def test_a_file_that_changes_makes_another_run(key: str, tmp_path: Path) -> None:
    def identity() -> str:
        return identity_of(compose(RunConfig, ["model=tiny", f"{key}={tmp_path / 'folder'}"]), data=[], code="c")

    nothing = identity()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights").write_text("first")
    first = identity()
    assert first != nothing and identity() == first
    (tmp_path / "folder" / "weights").write_text("second")
    assert identity() != first


@pytest.mark.parametrize(
    "change", [{"modality": "pathology"}, {"task": "multiclass"}, {"classes": {0: "a", 1: "b", 2: "c"}}]
)
def test_what_a_manifest_says_of_the_labels_and_images_counts(change: dict, tmp_path: Path, phantom_root: Path) -> None:
    def version(**values: object) -> str:
        manifest = {"table": "t.csv", "image": "file", "patient": "p", "task": "ordinal", "label_space": "mine",
                    "class": "grade", "classes": {0: "x", 1: "y", 2: "z"}, "modality": "chest"}  # fmt: skip
        (tmp_path / "manifest.yaml").write_text(yaml.safe_dump({**manifest, **values}))
        return data_version(DatasetConfig(kind="manifest", root=str(tmp_path), split="patient"), None)

    images = sorted((phantom_root / "chestxray14").rglob("*.png"))[:30]
    rows = [f"{shutil.copy(image, tmp_path)},p{n},{n % 3}" for n, image in enumerate(images)]
    (tmp_path / "t.csv").write_text("\n".join(["file,p,grade", *rows]) + "\n")
    assert version() != version(**change)


@pytest.mark.parametrize("change", ["label", "patient", "image"])
def test_a_record_that_changes_changes_the_version(change: str, tmp_path: Path, phantom_root: Path) -> None:
    shutil.copytree(phantom_root / "chestxray14", tmp_path / "chestxray14")
    config = DatasetConfig(kind="chestxray14", root="chestxray14", validation_fraction=0.2)
    first = data_version(config, str(tmp_path))
    assert data_version(config, str(tmp_path)) == first
    if change == "image":
        os.utime(next((tmp_path / "chestxray14").rglob("*.png")), (1, 1))
    else:
        table = tmp_path / "chestxray14" / "Data_Entry_2017_v2020.csv"
        lines = table.read_text().splitlines()
        fields = lines[1].split(",")
        place = 1 if change == "label" else 3
        fields[place] = {"label": "Hernia", "patient": "99999"}[change]
        table.write_text("\n".join([lines[0], ",".join(fields), *lines[2:]]) + "\n")
    assert data_version(config, str(tmp_path)) != first


def test_reports_that_come_later_change_the_version(tmp_path: Path, phantom_root: Path) -> None:
    shutil.copytree(phantom_root / "mimic_cxr", tmp_path / "mimic_cxr", ignore=shutil.ignore_patterns("*.txt", "*.zip"))
    config = DatasetConfig(kind="mimic_cxr", root="mimic_cxr")
    without = data_version(config, str(tmp_path))
    shutil.copytree(phantom_root / "mimic_cxr", tmp_path / "whole", dirs_exist_ok=True)
    for report in (tmp_path / "whole").rglob("*.txt"):
        shutil.copy(report, tmp_path / "mimic_cxr" / report.relative_to(tmp_path / "whole"))
    assert data_version(config, str(tmp_path)) != without
