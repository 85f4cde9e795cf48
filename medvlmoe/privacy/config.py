"""What can be chosen about differential privacy (docs/privacy.md)."""

from dataclasses import dataclass, field

from medvlmoe.errors import ConfigError
from medvlmoe.privacy.units import IMAGE, PATIENT

MODES = ("none", "record", "client", "both")
UNITS = (IMAGE, PATIENT)
ACCOUNTANTS = ("rdp", "prv")
CLIPPINGS = ("ghost", "flat")
UPDATE_CLIPPINGS = ("fixed", "adaptive")


@dataclass(kw_only=True)
class ClientLevelConfig:
    """Client-level privacy: the whole update of a hospital is hidden among those of the others, by the server.

    Attributes:
        clipping: ``fixed``, or ``adaptive``: the bound follows a quantile of the updates' norms (arXiv 1905.03871).
        max_update_norm: bound on the L2 norm of one hospital's update; with ``adaptive`` the first one.
        max_group_norms: bounds by parameter group instead, such as ``{vision: 0.5, expert*: 0.1}``; groups that no
            name fits share ``max_update_norm``.
        noise_multiplier: standard deviation of the noise, in units of the bound.
        target_epsilon: solved for the noise before the run instead of ``noise_multiplier``.
        delta: probability that the guarantee fails.
        weight_cap: a hospital's weight (examples, routed samples of an expert, known labels) counts in full from here
            on and in proportion below; ``None``: hospitals weigh alike wherever they weigh at all.
        target_quantile: adaptive: share of the updates that shall stay below the bound.
        quantile_rate: adaptive: step of the bound's logarithm a round.
        quantile_noise: adaptive: standard deviation of the noise on the count of updates below the bound.
    """

    clipping: str = "fixed"
    max_update_norm: float = 1.0
    max_group_norms: dict[str, float] = field(default_factory=dict)
    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    delta: float = 1e-5
    weight_cap: float | None = None
    target_quantile: float = 0.5
    quantile_rate: float = 0.2
    quantile_noise: float = 1.0

    def __post_init__(self) -> None:
        _one_of("client.clipping", self.clipping, UPDATE_CLIPPINGS)
        for name in ("max_update_norm", "quantile_rate", "quantile_noise"):
            _above_zero(f"client.{name}", getattr(self, name))
        for group, norm in self.max_group_norms.items():
            _above_zero(f"client.max_group_norms.{group}", norm)
        _check_noise("client.", self.noise_multiplier, self.target_epsilon)
        _share("client.delta", self.delta)
        _share("client.target_quantile", self.target_quantile)
        if self.weight_cap is not None:
            _above_zero("client.weight_cap", self.weight_cap)


@dataclass(kw_only=True)
class PrivacyConfig:
    """Differential privacy of a run.

    Attributes:
        mode: ``none``; ``record`` (each hospital hides every single record, by DP-SGD); ``client`` (the server hides
            every hospital among the others); ``both``.
        unit: what is hidden by ``record``: an ``image`` with its text and labels, or a ``patient`` with all images. At
            a hospital whose data tell no patients it is the image all the same, and ``privacy.md`` says so.
        noise_multiplier: standard deviation of the noise on a step's gradient, in units of ``max_grad_norm``.
        target_epsilon: the noise is solved for so that the whole run costs this much if each round is released once;
            instead of ``noise_multiplier``. Results that had left when their round was asked for again come on top;
            only a hospital's own cap is never exceeded.
        delta: probability that the guarantee fails; choose it well below one over the number of records.
        max_grad_norm: bound on the L2 norm of one record's gradient over all parameters together.
        accountant: ``rdp`` (fast, looser) or ``prv`` (numerical, tighter).
        clipping: ``ghost`` finds the norms of most gradients without making them; ``flat`` makes every record's
            gradient. The result is the same, ``flat`` takes more memory.
        physical_batch: records in memory at once. A batch is drawn with ``training.batch_size`` records on average and
            computed in parts of this size; the noise is added once.
        router_z_loss: weight of the router z-loss, which replaces the load-balancing loss (that one couples records).
        balance_alpha: weight of the load-balancing loss with the experts' loads of the last merge in place of the
            batch's. They come from the noised counts, so it needs ``counts_noise``; in the first round it is 0.
        counts_noise: standard deviation of the noise on the counts of routed samples and known labels, in units of
            their sensitivity, accounted once a round; ``None``: no counts leave, and every expert and label weighs by
            the number of records.
        release_evaluation: let metrics of the validation and test records leave without noise. They are not covered
            by the guarantee.
        repeatable_noise: make batches and noise from the run's seed, in simulations only. Whoever knows the seed can
            subtract such noise, so nothing is protected; a hospital never does it, whatever the server asks.
        client: settings of client-level privacy.
    """

    mode: str = "none"
    unit: str = IMAGE
    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    delta: float = 1e-5
    max_grad_norm: float = 1.0
    accountant: str = "rdp"
    clipping: str = "ghost"
    physical_batch: int = 32
    router_z_loss: float = 0.0
    balance_alpha: float = 0.0
    counts_noise: float | None = None
    release_evaluation: bool = False
    repeatable_noise: bool = False
    client: ClientLevelConfig = field(default_factory=ClientLevelConfig)

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, MODES)
        _one_of("unit", self.unit, UNITS)
        _one_of("accountant", self.accountant, ACCOUNTANTS)
        _one_of("clipping", self.clipping, CLIPPINGS)
        _check_noise("", self.noise_multiplier, self.target_epsilon)
        _share("delta", self.delta)
        _above_zero("max_grad_norm", self.max_grad_norm)
        if self.counts_noise is not None:
            _above_zero("counts_noise", self.counts_noise)
        if self.physical_batch < 1:
            raise ConfigError(f"privacy.physical_batch={self.physical_batch}: use 1 or more")
        for name in ("router_z_loss", "balance_alpha"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"privacy.{name}={getattr(self, name)}: use 0 or more")
        if self.balance_alpha > 0 and self.counts_noise is None:
            raise ConfigError(
                f"privacy.balance_alpha={self.balance_alpha}: the experts' loads come from the noised counts of routed "
                "samples, and none are sent; set privacy.counts_noise, or use privacy.router_z_loss instead"
            )
        for covers, settings, prefix in (
            (self.covers_records, self, ""),
            (self.covers_hospitals, self.client, "client."),
        ):
            if covers and settings.noise_multiplier is None and settings.target_epsilon is None:
                raise ConfigError(
                    f"privacy.mode={self.mode}: set privacy.{prefix}target_epsilon (the noise is solved for) or "
                    f"privacy.{prefix}noise_multiplier"
                )

    @property
    def covers_records(self) -> bool:
        """Whether every hospital trains with DP-SGD."""
        return self.mode in ("record", "both")

    @property
    def covers_hospitals(self) -> bool:
        """Whether the server hides every hospital's update."""
        return self.mode in ("client", "both")


def _check_noise(prefix: str, noise_multiplier: float | None, target_epsilon: float | None) -> None:
    if noise_multiplier is not None and not noise_multiplier > 0:
        raise ConfigError(
            f"privacy.{prefix}noise_multiplier={noise_multiplier}: without noise nothing is private (epsilon is "
            "infinite); use a number above 0, or privacy.mode=none"
        )
    if target_epsilon is not None:
        _above_zero(f"{prefix}target_epsilon", target_epsilon)
    if noise_multiplier is not None and target_epsilon is not None:
        raise ConfigError(
            f"privacy.{prefix}noise_multiplier and privacy.{prefix}target_epsilon: set one of them, the other follows"
        )


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"privacy.{name}={value}: choose one of {', '.join(choices)}")


def _above_zero(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ConfigError(f"privacy.{name}={value}: use a number above 0")


def _share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"privacy.{name}={value}: use a number between 0 and 1")
