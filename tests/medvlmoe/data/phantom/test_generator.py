import hashlib
import json
from pathlib import Path

import pytest

from medvlmoe.data.phantom import PhantomConfig, generate_phantoms, generator
from medvlmoe.errors import ConfigError, DataError

CHEAP = ["chestxray14", "retinamnist"]


def _config(root: Path, **changes: object) -> PhantomConfig:
    values = {"images_per_site": 40, "image_size": 28, "benchmarks": CHEAP, **changes}
    return PhantomConfig(root=str(root), **values)  # type: ignore[arg-type]


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_equal_seeds_give_equal_bytes_for_every_benchmark(tmp_path: Path) -> None:
    everything = PhantomConfig().benchmarks
    generate_phantoms(_config(tmp_path / "a", benchmarks=everything))
    generate_phantoms(_config(tmp_path / "b", benchmarks=everything))
    first = _digests(tmp_path / "a")
    assert first == _digests(tmp_path / "b")
    assert len(first) > 4 * 40


def test_seeds_give_different_images_and_labels(tmp_path: Path) -> None:
    generate_phantoms(_config(tmp_path / "a", seed=0))
    generate_phantoms(_config(tmp_path / "b", seed=1))
    a, b = _digests(tmp_path / "a"), _digests(tmp_path / "b")
    pictures = [name for name in a if name.endswith((".png", ".npz")) and name in b]
    assert len(pictures) > 10
    assert all(a[name] != b[name] for name in pictures)
    assert a["chestxray14/Data_Entry_2017_v2020.csv"] != b["chestxray14/Data_Entry_2017_v2020.csv"]


def test_a_benchmark_does_not_depend_on_the_others(tmp_path: Path) -> None:
    generate_phantoms(_config(tmp_path / "both"))
    generate_phantoms(_config(tmp_path / "alone", benchmarks=["retinamnist"]))
    assert _digests(tmp_path / "alone" / "medmnist") == _digests(tmp_path / "both" / "medmnist")


def test_counts_are_returned_and_recorded(tmp_path: Path) -> None:
    counts = generate_phantoms(_config(tmp_path / "p"))
    assert counts == {"chestxray14": 40, "retinamnist": 40}
    record = json.loads((tmp_path / "p" / "PHANTOM.json").read_text())
    assert record["images"] == counts
    assert record["config"]["seed"] == 0
    assert "synthetic" in record["notice"]
    assert "synthetic" in (tmp_path / "p" / "PHANTOM.md").read_text()


def test_same_configuration_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = generate_phantoms(_config(tmp_path / "p"))

    def fail(*_: object) -> int:
        raise AssertionError("drawn again")

    monkeypatch.setattr(generator, "_WRITERS", dict.fromkeys(generator._WRITERS, fail))
    assert generate_phantoms(_config(tmp_path / "p")) == counts
    assert generate_phantoms(_config(tmp_path / "p", benchmarks=CHEAP[::-1])) == counts
    monkeypatch.setattr(generator, "GENERATOR_VERSION", generator.GENERATOR_VERSION + 1)
    with pytest.raises(AssertionError, match="drawn again"):
        generate_phantoms(_config(tmp_path / "p"))


def test_another_configuration_replaces_the_phantoms(tmp_path: Path) -> None:
    generate_phantoms(_config(tmp_path / "p", images_per_site=60))
    own = tmp_path / "p" / "notes.txt"
    own.write_text("mine")
    generate_phantoms(_config(tmp_path / "p", benchmarks=["chestxray14"]))
    assert len(list((tmp_path / "p" / "chestxray14" / "images").iterdir())) == 40
    assert not (tmp_path / "p" / "medmnist").exists()
    assert own.read_text() == "mine"


def test_interrupted_generation_is_not_complete_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(generator._WRITERS, "retinamnist", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate_phantoms(_config(tmp_path / "p"))
    assert (tmp_path / "p" / "chestxray14").exists()
    assert not (tmp_path / "p" / "PHANTOM.json").exists()
    assert generate_phantoms(_config(tmp_path / "p"))["retinamnist"] == 40


def test_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "chestxray14" / "images" / "real.png"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"real")
    with pytest.raises(ConfigError, match="holds no phantoms"):
        generate_phantoms(_config(tmp_path))
    assert precious.read_bytes() == b"real"
    assert not (tmp_path / "PHANTOM.md").exists()


def test_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        generate_phantoms(_config(tmp_path / "file"))


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(generator._WRITERS, "chestxray14", full)
    with pytest.raises(DataError, match="No space left") as raised:
        generate_phantoms(_config(tmp_path / "p"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmarks": ["imagenet"]}, "unknown 'imagenet'"),
        ({"benchmarks": []}, "at least one"),
        ({"benchmarks": ["chexpert", "chexpert"]}, "each once"),
        ({"images_per_site": 5}, "images_per_site=5"),
        ({"image_size": 4}, "image_size=4"),
        ({"image_size": 96}, "retinamnist exists only in sizes"),
    ],
)
def test_bad_configuration(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _config(tmp_path, **changes)


def test_chest_layouts_take_any_size(tmp_path: Path) -> None:
    from PIL import Image

    generate_phantoms(_config(tmp_path / "p", benchmarks=["chestxray14"], image_size=96))
    with Image.open(next((tmp_path / "p" / "chestxray14" / "images").iterdir())) as image:
        assert image.size == (96, 96)
