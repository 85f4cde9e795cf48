"""What a run with differential privacy may not be combined with."""

from medvlmoe.errors import ConfigError
from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.training.config import TrainingConfig
from medvlmoe.training.private_steps import refuse_balance_loss, refuse_settings
from strategies.config import FederationConfig, StrategyConfig


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


def refuse_uncovered_records(
    modes: list[str],
    privacy: PrivacyConfig,
    training: TrainingConfig,
    federation: FederationConfig,
    model: MedVLMoEConfig,
    strategy: StrategyConfig,
) -> None:
    """Refuse settings under which record-level privacy would not be what it says, before a site is asked.

    Raises:
        ConfigError: with the reason and the mend.
    """
    if not privacy.covers_records:
        return
    if model.moe.balance_alpha > 0:
        refuse_balance_loss()
    _refuse_unknown_loads(modes, privacy, strategy)
    refuse_settings(training, training.precision)
    if federation.select == "best" and not privacy.release_evaluation:
        raise ConfigError(
            f"privacy.mode={privacy.mode} with federation.select=best: the best round is chosen by validation records, "
            "which have no noise; use federation.select=last, or privacy.release_evaluation=true"
        )
    if "yardstick" in modes:
        raise ConfigError(
            f"privacy.mode={privacy.mode} with mode=yardstick: its batch normalisation couples records; leave it out"
        )
    if "baseline" in modes:
        raise ConfigError(
            f"privacy.mode={privacy.mode} with mode=baseline: the contrastive stage of the comparison models compares "
            "each record with all others of its batch and has no noise, so an epsilon would be a false claim; leave it "
            "out"
        )


def _refuse_unknown_loads(modes: list[str], privacy: PrivacyConfig, strategy: StrategyConfig) -> None:
    if privacy.balance_alpha == 0:
        return
    for found, where, why in (
        (modes != ["federated"], f"mode {', '.join(modes)}", "only a federation merges counts"),
        (privacy.covers_hospitals, "privacy.mode=both", "the loads would tell of single hospitals, without noise"),
        (strategy.name != "per_expert", f"strategy={strategy.name}", "it weighs experts by examples, not by use"),
    ):
        if found:
            raise ConfigError(
                f"privacy.balance_alpha={privacy.balance_alpha} with {where}: {why}; use privacy.router_z_loss"
            )
