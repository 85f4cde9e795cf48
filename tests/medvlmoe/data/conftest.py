"""Small data sets on disk in the layouts that the loaders read. Images are drawn with Pillow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from medvlmoe.data import DatasetConfig, LabelSpace, SiteDataset, build_dataset, load_tokenizer, site_label_space


@pytest.fixture(name="draw")
def draw_fixture() -> Callable[..., Path]:
    """``draw(path, value)`` writes a small image."""
    return draw


@pytest.fixture(name="manifest_rows")
def manifest_rows_fixture() -> Callable[..., list[dict[str, Any]]]:
    """``manifest_rows(count)`` gives rows of a hospital's table."""
    return manifest_rows


@pytest.fixture(name="write_csv")
def write_csv_fixture() -> Callable[..., None]:
    """``write_csv(path, rows)``."""
    return write_csv


@pytest.fixture(name="words")
def words_fixture() -> Callable[[SiteDataset], list[str]]:
    """``words(dataset)`` gives the texts of a data set back."""
    return words


def draw(path: Path, value: int = 100, *, size: int = 20, mode: str = "L") -> Path:
    """Write an image whose left half has the value and whose right half is black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size, size), dtype=np.uint8)
    pixels[:, : size // 2] = value
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def make_manifest(tmp_path: Path) -> Callable[..., DatasetConfig]:
    """A hospital of ``count`` images with 0/1 labels; keyword arguments change the YAML, None removes a key."""

    def make(
        rows: list[dict[str, Any]] | None = None, *, config: dict[str, Any] | None = None, **keys: Any
    ) -> DatasetConfig:
        rows = manifest_rows() if rows is None else rows
        for number, row in enumerate(rows):
            if row.get("file") and not (tmp_path / row["file"]).exists():
                draw(tmp_path / row["file"], 10 + number)
        write_csv(tmp_path / "table.csv", rows)
        values = {
            "table": "table.csv", "image": "file", "patient": "patient", "task": "multilabel", "label_space": "mine",
            "labels": {"effusion": "Effusion", "stent": "Stent"}, "text": "note", "split": "part",
            "context": {"age": "age", "sex": "sex", "view": "view"},
        }  # fmt: skip
        values = {key: value for key, value in {**values, **keys}.items() if value is not None}
        (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(values))
        return DatasetConfig(**{"kind": "manifest", "root": str(tmp_path), **(config or {})})

    return make


def manifest_rows(count: int = 60) -> list[dict[str, Any]]:
    """Rows of a table in which every patient has two images."""
    parts = ["train", "train", "train", "validation", "test"]
    return [
        {
            "file": f"images/{number:03d}.png", "patient": f"P{number // 2}", "effusion": number % 2,
            "stent": [0, 1, ""][number % 3], "age": 20 + number, "sex": "MF"[number % 2], "view": "PA",
            "note": f"note {number}", "part": parts[number // 2 % 5], "grade": number % 3,
        }
        for number in range(count)
    ]  # fmt: skip


def write_csv(path: Path, rows: list[dict[str, Any]], *, encoding: str = "utf-8") -> None:
    """Write rows whose cells hold no commas."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(rows[0])] + [",".join(str(cell) for cell in row.values()) for row in rows]
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


@pytest.fixture
def make_nih(tmp_path: Path) -> Callable[..., DatasetConfig]:
    """ChestX-ray14 with two images for each of 30 patients; patients 25 to 30 are the official test part."""

    def make(findings: list[str] | None = None, *, images: bool = True, **config: Any) -> DatasetConfig:
        findings = findings or ["No Finding", "Effusion|Pleural_Thickening", "Mass"]
        lines, train, test = [NIH_HEADER], [], []
        for number in range(60):
            patient, name = number // 2 + 1, f"{number // 2 + 1:08d}_{number % 2:03d}.png"
            finding = findings[number % len(findings)]
            lines.append(f"{name},{finding},{number % 2},{patient},{20 + patient},M,PA,2500,2048,0.1,0.1")
            (test if patient > 24 else train).append(name)
            if images:
                draw(tmp_path / f"images_{1 + number % 2:03d}" / "images" / name, number)
        (tmp_path / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
        (tmp_path / "train_val_list.txt").write_text("\n".join(train))
        (tmp_path / "test_list.txt").write_text("\n".join(test))
        return DatasetConfig(**{"kind": "chestxray14", "root": str(tmp_path), **config})

    return make


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., SiteDataset]:
    """``build_dataset`` with small defaults."""

    def build(config: DatasetConfig, split: str = "train", **options: Any) -> SiteDataset:
        if "label_space" not in options:
            options["label_space"] = LabelSpace.union([site_label_space(config)])
        defaults = {"image_size": 16, "max_tokens": 64, "cache": tmp_path / "cache"}
        return build_dataset(config, split, **{"tokenizer": load_tokenizer("byte"), **defaults, **options})

    return build


def words(dataset: SiteDataset) -> list[str]:
    """The texts of a data set, read back from its byte tokens."""
    batch = dataset.__getitems__(range(len(dataset)))
    return [bytes(int(token) - 4 for token in row if token >= 4).decode() for row in batch.input_ids_BL]
