import importlib.resources
from pathlib import Path

import pytest
import yaml

from medvlmoe.configuration import from_mapping
from medvlmoe.data import DataConfig, DatasetConfig
from medvlmoe.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "mnist"}, "kind=mnist: use one of chestxray14"),
        ({"split": "random"}, "split=random"),
        ({"size": 32}, "size=32: use one of 28"),
        ({"validation_fraction": 1.5}, "validation_fraction=1.5"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "leave nothing for training"),
        ({"partition_count": 2, "partition_index": 2}, "use 0 to 1"),
        ({"kind": "manifest", "text": "report"}, "set allow_label_leak=true"),
        ({"kind": "manifest", "text": "redacted"}, "set allow_label_leak=true"),
        ({"text": "redacted", "allow_label_leak": True}, "text=redacted: pathmnist has no reports"),
        ({"uncertain": "u-ones"}, "uncertain=u-ones: use one of ignore, zeros, ones, irvin5, lsr"),
        ({"labeler": "chexbert"}, "labeler=chexbert: use one of chexpert, negbio"),
        ({"test_labels": "best"}, "test_labels=best: use one of labeler, radiologist"),
        ({"reports_root": "reports"}, "reports_root=reports needs kind=mimic_cxr"),
        ({"manifest": "idrid"}, "needs kind=manifest"),
        ({"colour": True}, "unknown configuration key"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        from_mapping(DataConfig, {"sites": {"a": {"kind": "pathmnist", "root": "x", **values}}})
    assert "\n" not in str(caught.value)


def test_workers_must_be_at_least_one():
    with pytest.raises(ConfigError, match=r"data\.workers=0: use a whole number of at least 1, or null"):
        from_mapping(DataConfig, {"workers": 0})


@pytest.mark.parametrize("name", ["real", "phantom"])
def test_packaged_configurations(name):
    values = yaml.safe_load((importlib.resources.files("configs") / "data" / f"{name}.yaml").read_text())
    assert len(from_mapping(DataConfig, values).sites) == 5


def test_a_relative_root_is_below_the_data_root():
    config = DatasetConfig(kind="pathmnist", root="medmnist")
    assert config.folder("/data") == Path("/data/medmnist")
    assert DatasetConfig(kind="pathmnist", root="/elsewhere").folder("/data") == Path("/elsewhere")
