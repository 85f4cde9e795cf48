"""What may be asked of privacy, and what is refused with its reason."""

import pytest

from medvlmoe.configuration import compose
from medvlmoe.errors import ConfigError
from medvlmoe.privacy.config import PrivacyConfig
from strategies.run_config import RunConfig


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"mode": "record"}, "set privacy.target_epsilon"),
        ({"mode": "record", "noise_multiplier": 0.0}, "without noise nothing is private"),
        ({"mode": "record", "noise_multiplier": 1.0, "target_epsilon": 1.0}, "set one of them"),
        ({"mode": "record", "target_epsilon": 3.0, "unit": "study"}, "choose one of image, patient"),
        ({"mode": "client", "target_epsilon": 3.0}, "privacy.client.target_epsilon"),
        ({"mode": "private"}, "choose one of none, record, client, both"),
        ({"delta": 1.0}, "between 0 and 1"),
        ({"max_grad_norm": 0.0}, "above 0"),
        ({"max_grad_norm": float("inf")}, "above 0"),
        ({"counts_noise": 0.0}, "above 0"),
        ({"balance_alpha": 0.01}, "come from the noised counts"),
        ({"balance_alpha": -1.0, "counts_noise": 3.0}, "0 or more"),
    ],
)
def test_what_is_not_private_is_refused(keys: dict, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        PrivacyConfig(**keys)


@pytest.mark.parametrize("mode", ["none", "record", "client", "both"])
def test_every_mode_composes(mode: str) -> None:
    config = compose(RunConfig, ["model=tiny", f"privacy={mode}"])
    assert config.privacy.mode == mode
    assert config.privacy.covers_records == (mode in ("record", "both"))
    assert config.privacy.covers_hospitals == (mode in ("client", "both"))
    if config.privacy.covers_records:  # what would break the guarantee is off
        assert config.model.moe.balance_alpha == 0
        assert (config.training.precision, config.training.patience) == ("float32", 0)
        assert config.federation.select == "last"
