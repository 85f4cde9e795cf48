"""The keys of a site's policy."""

import re
from dataclasses import dataclass, field

from client.policy.hours import Hours
from medvlmoe.errors import ConfigError
from medvlmoe.privacy.config import UNITS
from medvlmoe.privacy.units import IMAGE
from strategies.config import UPLOAD_CODECS

WHOLE_UPDATE = "all"
INSTALLED_BUNDLE = "installed"


@dataclass(kw_only=True)
class SitePolicy:
    """The section ``policy`` of ``site.yaml``, or a YAML file of its own that this key names.

    Names may hold ``*`` and ``?``. What breaks the policy is refused before the data is touched, with two exceptions:
    the size of the update is known only after training, and metrics are left out instead of refused.

    Attributes:
        installed_code_only: the site's own installed package must do the work, not a copy that came with the run.
        fab_hashes: SHA-256 of the Flower app bundles (FAB) that the site has reviewed; ``installed`` is that of the
            installed package; ``None``: any.
        runs: the runs that the site takes part in, by the name that the server gives them.
        model_files: folders from which a request may have weights or a tokenizer read.
        groups: parameter groups that may leave: ``vision``, ``text``, ``fusion``, ``router``, ``expert.*``, ``head``.
        codecs: number formats that may leave.
        max_update_norm: largest L2 norm of the change, by group, or of ``all`` of it.
        on_large_update: ``refuse`` the round, or ``clip`` what is too large down to its bound.
        min_examples: fewest training examples.
        min_patients: fewest patients among them.
        differential_privacy_required: refuse rounds without differential privacy of the site's records, and let no
            metric of validation or test records leave.
        privacy_unit: what must be hidden: an ``image``, or a ``patient`` with all images. A request that hides less is
            refused, and so is every one where the data tell no patients. With ``differential_privacy_required``.
        max_epsilon: most that the site's records may cost over all runs; a round that would cost more is refused
            before it begins. Only with ``differential_privacy_required``.
        max_delta: epsilon is counted at this delta if the server asks for a larger one.
        hours: when a round may begin, local time: ``["Mon-Fri 18:00-07:00", "Sat 00:00-24:00"]``; empty: always.
        max_rounds_per_run: rounds of one run that may be answered; ``None``: all.
        max_rounds_per_day: training replies that may leave in one local day, repetitions of one not counted; ``None``:
            all.
        metrics: metrics that may leave, such as ``train_loss`` or ``test/*``.
        min_cell: smallest number of patients behind a number that leaves.
    """

    installed_code_only: bool = True
    fab_hashes: list[str] | None = None
    runs: list[str] = field(default_factory=lambda: ["*"])
    model_files: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=lambda: ["*"])
    codecs: list[str] = field(default_factory=lambda: list(UPLOAD_CODECS))
    max_update_norm: dict[str, float] = field(default_factory=dict)
    on_large_update: str = "refuse"
    min_examples: int = 1
    min_patients: int = 1
    differential_privacy_required: bool = False
    privacy_unit: str = IMAGE
    max_epsilon: float | None = None
    max_delta: float = 1e-5
    hours: list[str] = field(default_factory=list)
    max_rounds_per_run: int | None = None
    max_rounds_per_day: int | None = None
    metrics: list[str] = field(default_factory=lambda: ["*"])
    min_cell: int = 1

    def __post_init__(self) -> None:
        if self.on_large_update not in ("refuse", "clip"):
            raise ConfigError(f"policy.on_large_update={self.on_large_update}: choose refuse or clip")
        for codec in self.codecs:
            if codec not in UPLOAD_CODECS:
                raise ConfigError(f"policy.codecs: no codec '{codec}'; there are {', '.join(UPLOAD_CODECS)}")
        for group, norm in self.max_update_norm.items():
            if not norm > 0:
                raise ConfigError(f"policy.max_update_norm.{group}={norm}: use a number above 0")
        for name in ("min_examples", "min_patients", "min_cell", "max_rounds_per_run", "max_rounds_per_day"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"policy.{name}={value}: use 1 or more")
        if self.max_epsilon is not None and not (self.differential_privacy_required and self.max_epsilon > 0):
            raise ConfigError(
                f"policy.max_epsilon={self.max_epsilon}: use a number above 0, with differential_privacy_required=true"
            )
        if self.privacy_unit not in UNITS:
            raise ConfigError(f"policy.privacy_unit={self.privacy_unit}: choose one of {', '.join(UNITS)}")
        if self.privacy_unit != IMAGE and not self.differential_privacy_required:
            raise ConfigError(
                f"policy.privacy_unit={self.privacy_unit}: it only counts with differential_privacy_required=true"
            )
        if not 0 < self.max_delta < 1:
            raise ConfigError(f"policy.max_delta={self.max_delta}: use a number between 0 and 1")
        for fab_hash in self.fab_hashes or ():
            if fab_hash != INSTALLED_BUNDLE and not re.fullmatch("[0-9a-f]{64}", fab_hash):
                raise ConfigError(
                    f"policy.fab_hashes: '{fab_hash}' is neither '{INSTALLED_BUNDLE}' nor a SHA-256 of 64 digits 0-9a-f"
                )
        for window in self.hours:
            Hours.parse(window)
