from pathlib import Path

import pytest

from medvlmoe.data.phantom.command import parse, phantom
from medvlmoe.errors import ConfigError


def test_command_writes_and_prints_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "p"
    assert phantom([f"root={root}", "images_per_site=40", "image_size=28", "benchmarks=[retinamnist]", "seed=7"]) == 0
    printed = capsys.readouterr().out
    assert "retinamnist" in printed
    assert "40" in printed
    assert (root / "medmnist" / "retinamnist.npz").is_file()


def test_help_prints_keys_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert phantom(["--help"]) == 0
    printed = capsys.readouterr().out
    for line in ("root: phantom", "images_per_site: 400", "image_size: 64", "seed: 0", "- chestxray14"):
        assert line in printed


def test_arguments_reach_the_configuration() -> None:
    config = parse(["images_per_site=50", "benchmarks=[chexpert,pathmnist]", "seed=2"])
    assert (config.images_per_site, config.benchmarks, config.seed) == (50, ["chexpert", "pathmnist"], 2)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("colour=red", "unknown key 'colour'"),
        ("chestxray14", "not key=value"),
        ("seed=many", "seed"),
        ("benchmarks=[chexpert", "benchmarks"),
        ("benchmarks=chexpert", "benchmarks"),
        ("images_per_site=1", "images_per_site=1"),
        ("seed.x=1", "unknown key 'seed.x'"),
        ("seed=null", "seed"),
    ],
)
def test_mistakes_are_one_line(argument: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse([argument])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
