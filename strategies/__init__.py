"""Federated strategies: merge rules, weights, codecs and the message contract."""

from strategies.client_level import ClientLevelPrivacy
from strategies.config import StrategyConfig
from strategies.fedavg import FedAvg
from strategies.per_expert import PerExpertFedAvg

__all__ = ["FedAvg", "PerExpertFedAvg", "build_strategy"]


def build_strategy(
    config: StrategyConfig,
    *,
    expert_count: int,
    label_count: int,
    quorum: int,
    privacy: ClientLevelPrivacy | None = None,
) -> FedAvg:
    """The strategy that the configuration names."""
    strategy = {"per_expert": PerExpertFedAvg, "fedavg": FedAvg}[config.name]
    return strategy(
        expert_count=expert_count,
        label_count=label_count,
        codec=config.codec,
        upload_codec=config.upload_codec,
        quorum=quorum,
        privacy=privacy,
    )
