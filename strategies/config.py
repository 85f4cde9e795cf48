"""What the server decides about a federation: strategy, rounds, what travels and how."""

from dataclasses import dataclass, field

from medvlmoe.errors import ConfigError

STRATEGIES = ("per_expert", "fedavg")
CODECS = ("float32", "float16", "bfloat16")
UPLOAD_CODECS = (*CODECS, "int8")


@dataclass(kw_only=True)
class StrategyConfig:
    """How the sites' updates are merged.

    Attributes:
        name: ``per_expert`` (each expert weighted by the samples routed to it) or ``fedavg`` (all by examples).
        codec: number format of the parameters on the wire: ``float32``, ``float16`` or ``bfloat16``.
        upload_codec: number format of what the sites send back: one of those, or ``int8`` with error feedback;
            ``None``: as ``codec``. All but ``float32`` carry the change of the parameters.
    """

    name: str = "per_expert"
    codec: str = "float32"
    upload_codec: str | None = None

    def __post_init__(self) -> None:
        if self.name not in STRATEGIES:
            raise ConfigError(f"strategy.name={self.name}: choose one of {', '.join(STRATEGIES)}")
        if self.codec not in CODECS:
            hint = "; int8 is for strategy.upload_codec" if self.codec in UPLOAD_CODECS else ""
            raise ConfigError(f"strategy.codec={self.codec}: choose one of {', '.join(CODECS)}{hint}")
        if self.upload_codec is not None and self.upload_codec not in UPLOAD_CODECS:
            raise ConfigError(
                f"strategy.upload_codec={self.upload_codec}: choose one of {', '.join(UPLOAD_CODECS)}, or null"
            )


@dataclass(kw_only=True)
class FederationConfig:
    """The round loop.

    Attributes:
        rounds: rounds of local training and merge.
        local_epochs: epochs of local training a round.
        keep_optimizer_state: a site goes on with its AdamW moments from its last round instead of starting at zero.
        select: which global model the run ends with: ``best`` mean validation AUC over the sites, or the ``last``.
        sites: how many sites to wait for before the first round; ``None`` in simulation, where they are known.
        hospitals: their names, so that a missing one can be named and a stranger is not taken; empty: whoever comes.
            ``sites`` is then their number.
        quorum: replies a round needs before it may change the model; ``None``: every site that was invited. The run
            starts with so many if the others have not connected after ``connect_seconds``.
        retries: how often a round below quorum is repeated before the run ends with exit code 3.
        connect_seconds: how long to wait for the sites to connect before the first round.
        round_seconds: deadline of a round.
        grace_seconds: once ``quorum`` replies are there, how long the round still waits for the others; ``None``:
            until its deadline.
        unreachable_seconds: how long a round waits for a hospital whose line is cut, or that is switched off, before it
            goes on without it.
        delivery_seconds: how long a connected hospital has to fetch the model before the round goes on without it;
            ``None``: until the round's deadline. One whose line was cut in the moment in which it was told of the round
            never fetches it.
    """

    rounds: int = 10
    local_epochs: int = 1
    keep_optimizer_state: bool = True
    select: str = "best"
    sites: int | None = None
    hospitals: list[str] = field(default_factory=list)
    quorum: int | None = None
    retries: int = 2
    connect_seconds: float = 600.0
    round_seconds: float = 86400.0
    grace_seconds: float | None = None
    unreachable_seconds: float = 600.0
    delivery_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "local_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"federation.{name}={getattr(self, name)}: must be at least 1")
        if self.select not in ("best", "last"):
            raise ConfigError(f"federation.select={self.select}: choose best or last")
        if self.quorum is not None and self.quorum < 1:
            raise ConfigError(f"federation.quorum={self.quorum}: must be at least 1")
        if len(set(self.hospitals)) < len(self.hospitals):
            raise ConfigError("federation.hospitals: a name is there twice; give each hospital its own")
        if self.hospitals and self.sites not in (None, len(self.hospitals)):
            raise ConfigError(f"federation.sites={self.sites}, but federation.hospitals names {len(self.hospitals)}")
        if self.quorum is not None and self.quorum > (self.expected_sites or self.quorum):
            raise ConfigError(f"federation.quorum={self.quorum} is more than the {self.expected_sites} sites expected")
        if self.grace_seconds is not None and self.quorum is None:
            raise ConfigError("federation.grace_seconds needs federation.quorum: without it every site is waited for")

    @property
    def expected_sites(self) -> int | None:
        """How many sites to wait for before the first round; ``None``: whoever is connected."""
        return len(self.hospitals) or self.sites
