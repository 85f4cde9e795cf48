import shutil

import pytest

from medvlmoe.data import DatasetConfig, load_index
from medvlmoe.data.site_stamps import site_stamps


def stamps(config: DatasetConfig, *, text_leaks: bool = False) -> list[str]:
    return site_stamps(config, load_index(config).left_out, text_leaks=text_leaks)


@pytest.mark.parametrize(
    ("text", "expected"), [("context", []), ("none", []), ("report", ["LEAKY"]), ("redacted", ["LEAKY"])]
)
def test_reports_are_leaky(make_manifest, text, expected):
    assert stamps(make_manifest(config={"text": text, "allow_label_leak": True})) == expected


def test_a_context_that_leaks_is_leaky_too(make_manifest):
    assert stamps(make_manifest(), text_leaks=True) == ["LEAKY"]


def test_a_site_with_missing_images_is_a_subset(make_nih, tmp_path):
    config = make_nih(allow_subset=True)
    assert stamps(config) == []
    next((tmp_path / "images_001").rglob("*.png")).unlink()
    assert stamps(config) == ["SUBSET"]


def test_phantoms_are_phantoms_also_where_they_were_moved_to(phantom_root, tmp_path):
    assert stamps(DatasetConfig(kind="chexpert", root=str(phantom_root / "chexpert"))) == ["PHANTOM"]
    shutil.copytree(phantom_root / "chexpert", tmp_path / "elsewhere")
    assert stamps(DatasetConfig(kind="chexpert", root=str(tmp_path / "elsewhere"))) == ["PHANTOM"]
