from dataclasses import dataclass, field

import pytest

from medvlmoe.configuration import compose, differences, from_mapping, to_mapping
from medvlmoe.errors import ConfigError
from strategies.run_config import RunConfig


@dataclass(kw_only=True)
class Inner:
    size: int = 1


@dataclass(kw_only=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)


def test_unknown_keys_and_wrong_types_are_errors() -> None:
    assert from_mapping(Outer, {"name": "a", "inner": {"size": 3}}).inner.size == 3
    with pytest.raises(ConfigError, match=r"inner\.sise"):
        from_mapping(Outer, {"name": "a", "inner": {"sise": 3}})
    with pytest.raises(ConfigError, match="size"):
        from_mapping(Outer, {"name": "a", "inner": {"size": "big"}})
    with pytest.raises(ConfigError, match="name"):
        from_mapping(Outer, {})


def test_mapping_round_trip() -> None:
    config = compose(RunConfig, ["model=tiny", "federation.rounds=7"])
    assert config.federation.rounds == 7
    assert from_mapping(RunConfig, to_mapping(config)) == config


@pytest.mark.parametrize("experiment", ["quickstart", "real", "paper"])
def test_every_experiment_composes(experiment: str) -> None:
    assert compose(RunConfig, [f"experiment={experiment}"]).data.sites


@pytest.mark.parametrize("group", ["model=nothing", "seed=[", "=3", "+new=1", "federation.rounds"])
def test_malformed_overrides_are_one_line(group: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(RunConfig, [group])
    assert "\n" not in str(caught.value)


def test_differences_name_dotted_keys() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == {"a.c": (2, 3), "d": (None, 4)}
