"""What a run with client-level privacy may not be combined with."""

from medvlmoe.errors import ConfigError
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.training.config import TrainingConfig
from strategies.config import FederationConfig


def refuse_contradictions(
    mode: str, privacy: PrivacyConfig, training: TrainingConfig, federation: FederationConfig
) -> None:
    """Refuse settings under which client-level privacy would not be what it says.

    Raises:
        ConfigError: no federation, a choice by validation metrics that the guarantee does not cover, or too few
            hospitals.
    """
    if not privacy.covers_hospitals:
        return
    if mode != "federated":
        raise ConfigError(
            f"privacy.mode={privacy.mode} with mode={mode}: client-level privacy is the server's, so it needs "
            "mode=federated; use privacy.mode=record"
        )
    if not privacy.release_evaluation:
        for chosen, key, mend in (
            (federation.select == "best", "federation.select=best", "federation.select=last"),
            (training.patience > 0, f"training.patience={training.patience}", "training.patience=0"),
        ):
            if chosen:
                raise ConfigError(
                    f"privacy.mode={privacy.mode} with {key}: that looks at validation records, which client-level "
                    f"privacy does not cover; use {mend}, or privacy.release_evaluation=true"
                )
    if federation.quorum is not None and federation.quorum < 2:
        raise ConfigError(
            f"privacy.mode={privacy.mode} with federation.quorum={federation.quorum}: one hospital has nobody to hide "
            "among; use 2 or more"
        )
