from pathlib import Path

import pytest
import yaml

from medvlmoe.configuration import from_mapping
from medvlmoe.errors import ConfigError
from medvlmoe.model import FusionConfig, MedVLMoEConfig, MoEConfig, TextConfig, VisionConfig

PRESETS = Path(__file__).parents[3] / "configs" / "model"


def read_preset(name: str) -> MedVLMoEConfig:
    return from_mapping(MedVLMoEConfig, yaml.safe_load((PRESETS / f"{name}.yaml").read_text()))


def test_defaults_are_the_paper_preset() -> None:
    assert read_preset("paper") == MedVLMoEConfig()


@pytest.mark.parametrize("name", ["paper", "small", "tiny"])
def test_preset_carries_its_name(name: str) -> None:
    assert read_preset(name).name == name


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_presets_for_one_machine_need_no_files(name: str) -> None:
    config = read_preset(name)
    assert config.text.tokenizer == "byte"
    assert config.vision.weights is None
    assert config.text.weights is None


def test_literal_readings_are_the_defaults() -> None:
    fusion, moe = FusionConfig(), MoEConfig()
    assert (fusion.tokens, fusion.projections, fusion.heads, fusion.gate) == ("all", "shared", 1, "modality")
    assert not fusion.output_projection
    assert not fusion.residual
    assert (moe.unit, moe.hidden_size, moe.renormalise, moe.balance_scale) == ("sample", None, True, "paper")
    assert not moe.residual


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        (VisionConfig, "image_size", 0),
        (VisionConfig, "normalisation", "layer"),
        (VisionConfig, "output_stride", 7),
        (VisionConfig, "drop_path", 1.0),
        (TextConfig, "pool", "first"),
        (TextConfig, "heads", 3),
        (TextConfig, "dropout", -0.1),
        (TextConfig, "max_tokens", 5000),
        (FusionConfig, "tokens", "some"),
        (FusionConfig, "projections", "both"),
        (FusionConfig, "heads", 7),
        (FusionConfig, "gate", "scalar"),
        (MoEConfig, "unit", "batch"),
        (MoEConfig, "top_k", 9),
        (MoEConfig, "experts", 0),
        (MoEConfig, "hidden_size", 0),
        (MoEConfig, "balance_scale", "none"),
        (MoEConfig, "balance_alpha", -1.0),
    ],
)
def test_bad_value_is_one_line_that_names_the_key(part: type, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"model\.\w+\.{key}=") as caught:
        part(**{key: value})
    assert "\n" not in str(caught.value)


def test_byte_tokenizer_needs_its_vocabulary() -> None:
    with pytest.raises(ConfigError, match="vocabulary_size=259"):
        TextConfig(tokenizer="byte", vocabulary_size=259)


def test_text_longer_than_the_position_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_text_positions"):
        MedVLMoEConfig(text=TextConfig(max_tokens=300))


def test_token_routing_of_a_single_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="unit=token"):
        MedVLMoEConfig(fusion=FusionConfig(tokens="cls"), moe=MoEConfig(unit="token"))
