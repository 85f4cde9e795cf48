import pytest

from medvlmoe.configuration import from_mapping
from medvlmoe.errors import ConfigError
from medvlmoe.training import TrainingConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("batch_size", 0), ("accumulate", 33), ("head_learning_rate", -1.0), ("warmup_epochs", -1),
        ("schedule", "linear"), ("precision", "fp16"), ("ordinal", "corn"), ("gradient_clip", 0.0), ("beta2", 1.0),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{name}={value}"):
        TrainingConfig(**{name: value})


def test_the_configuration_survives_the_typed_mapping() -> None:
    assert from_mapping(TrainingConfig, {"gradient_clip": 1, "accumulate": 2}) == TrainingConfig(
        gradient_clip=1.0, accumulate=2
    )
