"""What the server decides about a federation: strategy, rounds, what travels and how."""

from dataclasses import dataclass

from medvlmoe.errors import ConfigError

STRATEGIES = ("per_expert", "fedavg")
CODECS = ("float32", "float16", "bfloat16")


@dataclass(kw_only=True)
class StrategyConfig:
    """How the sites' updates are merged.

    Attributes:
        name: ``per_expert`` (each expert weighted by the samples routed to it) or ``fedavg`` (all by examples).
        codec: number format of the parameters on the wire: ``float32``, ``float16`` or ``bfloat16``.
    """

    name: str = "per_expert"
    codec: str = "float32"

    def __post_init__(self) -> None:
        if self.name not in STRATEGIES:
            raise ConfigError(f"strategy.name={self.name}: choose one of {', '.join(STRATEGIES)}")
        if self.codec not in CODECS:
            raise ConfigError(f"strategy.codec={self.codec}: choose one of {', '.join(CODECS)}")


@dataclass(kw_only=True)
class FederationConfig:
    """The round loop.

    Attributes:
        rounds: rounds of local training and merge.
        local_epochs: epochs of local training a round.
        keep_optimizer_state: a site goes on with its AdamW moments from its last round instead of starting at zero.
        select: which global model the run ends with: ``best`` mean validation AUC over the sites, or the ``last``.
        sites: how many sites to wait for before the first round; ``None`` in simulation, where they are known.
        quorum: replies a round needs before it may change the model; ``None``: every site that was invited.
        retries: how often a round below quorum is repeated before the run ends with exit code 3.
        connect_seconds: how long to wait for the sites to connect before the first round.
        round_seconds: deadline of a round.
    """

    rounds: int = 10
    local_epochs: int = 1
    keep_optimizer_state: bool = True
    select: str = "best"
    sites: int | None = None
    quorum: int | None = None
    retries: int = 2
    connect_seconds: float = 600.0
    round_seconds: float = 86400.0

    def __post_init__(self) -> None:
        for name in ("rounds", "local_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"federation.{name}={getattr(self, name)}: must be at least 1")
        if self.select not in ("best", "last"):
            raise ConfigError(f"federation.select={self.select}: choose best or last")
        if self.quorum is not None and self.quorum < 1:
            raise ConfigError(f"federation.quorum={self.quorum}: must be at least 1")
