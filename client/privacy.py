"""Record-level differential privacy at a site: what a round will cost, whether it may, and what may leave.

Shapes: K experts, Y labels.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from client.config import SiteConfig
from client.policy import PolicyRefusalError
from client.receipts import Receipt, ReceiptChain
from client.receipts.receipt import ACCOUNT
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.files import append_json_line, read_json_lines
from medvlmoe.privacy.accountant import Accountant
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.privacy.mechanism import Mechanism
from medvlmoe.privacy.randomness import SecretRandomness
from medvlmoe.privacy.record_cost import PREFIX, RecordCost
from medvlmoe.privacy.units import IMAGE, PATIENT, PrivacyUnits
from medvlmoe.seeds import derive_seed
from medvlmoe.training.private_steps import (
    PrivateSteps,
    SamplingPlan,
    counts_mechanisms,
    planned_noise,
    step_mechanism,
)
from strategies import error_codes
from strategies.messages import InvalidMessageError, RoundConfig

logger = logging.getLogger(__name__)


class PrivacyBudget:
    """What this site's records have cost so far, over all runs: one line of ``privacy.jsonl`` for each release.

    The file belongs to the site's folder, not to a run: another run on the same data goes on from it. Every release is
    written before it leaves; what is released twice is written twice.

    Raises:
        CheckpointError: the file is damaged. It is never taken for an empty one.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def spent(self, but_of: str | None = None) -> list[Mechanism]:
        """Every release so far, without those of one run."""
        return [mechanism for line in self._lines() if line.run != but_of for mechanism in line.released]

    def unit(self) -> str | None:
        """What the releases so far have hidden, ``image`` or ``patient``; ``None`` if there are none."""
        return next((line.unit for line in self._lines()), None)

    def rounds(self) -> Counter[tuple[str, int]]:
        """How often each round of each run was counted."""
        return Counter((line.run, line.round) for line in self._lines())

    def begin_anew(self) -> Path | None:
        """Put the account aside; where it lies now, ``None`` if there was none."""
        if not self.file.exists():
            return None
        aside = self.file.with_name(f"privacy-until-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.jsonl")
        self.file.rename(aside)
        return aside

    def _lines(self) -> list["_Line"]:
        try:
            return [
                _Line(line["run"], line["round"], line.get("unit", IMAGE), Accountant.from_dict(line).spent)
                for line in read_json_lines(self.file)
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.file} is damaged ({error}); restore it from a backup") from error

    def charge(self, run: str, server_round: int, released: list[Mechanism], unit: str = IMAGE) -> None:
        """Count a release that is about to leave.

        Raises:
            CheckpointError: it cannot be written; then nothing may leave.
        """
        if not self.file.exists():
            logger.warning("%s: no record of spent privacy there; counting starts at 0", self.file)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        append_json_line(
            self.file,
            {"run": run, "round": server_round, "at": when, "unit": unit, **Accountant("rdp", released).to_dict()},
        )


class _Line(NamedTuple):
    run: str
    round: int
    unit: str
    released: tuple[Mechanism, ...]


@dataclass(frozen=True, kw_only=True)
class RoundPrivacy:
    """One round of DP-SGD at a site.

    Attributes:
        steps: how the trainer takes its steps.
        released: what the round will have released.
        cost: of everything up to the end of the round.
        budget: the site's record of what was spent.
        units: what is hidden.
    """

    steps: PrivateSteps
    released: list[Mechanism]
    cost: RecordCost
    budget: PrivacyBudget
    units: PrivacyUnits

    def charge(self, request: RoundConfig) -> None:
        """Count the round. See :meth:`PrivacyBudget.charge`."""
        self.budget.charge(request.run, request.round, self.released, self.units.kind)


def budget_of(site: SiteConfig) -> PrivacyBudget:
    """The record of what the site's data have cost."""
    return PrivacyBudget(Path(site.folder) / "privacy.jsonl")


def open_round(site: SiteConfig, request: RoundConfig, units: PrivacyUnits) -> RoundPrivacy:
    """Look at a round before it begins. Nothing is counted yet.

    Args:
        site: the site.
        request: the round.
        units: of the site's training records.

    Raises:
        PolicyRefusalError: it would exceed the site's ``policy.max_epsilon``, hides less than ``policy.privacy_unit``,
            or something else than what was spent before; or the account lacks what has left by the receipts.
        ConfigError: ``delta`` is too large for so few units, or no noise reaches the target.
        InvalidMessageError: the experts' loads are no shares.
    """
    policy, count = site.policy, len(units)
    receipts = ReceiptChain(site.receipts_file).receipts()
    budget = budget_of(site)
    _refuse_forgotten(budget, receipts)
    _refuse_other_unit(site, budget, request.privacy.unit, units)
    config = replace(request.privacy, delta=min(request.privacy.delta, policy.max_delta))
    if config.delta * count >= 1:
        raise ConfigError(
            f"privacy.delta={config.delta:g} with {count} {units.kind}s: publishing one record whole would satisfy it; "
            f"use less than {1 / count:.1g}"
        )
    plan = SamplingPlan.of(count, request.training.batch_size)
    noise = planned_noise(config, plan, request.rounds * request.local_epochs, request.rounds)
    released = [step_mechanism(noise, plan, request.local_epochs), *counts_mechanisms(config, 1)]
    before = Accountant(config.accountant, budget.spent())
    epsilon = before.epsilon_after(released, config.delta)
    if policy.max_epsilon is not None and epsilon > policy.max_epsilon:
        raise PolicyRefusalError(
            error_codes.PRIVACY_SPENT,
            f"policy.max_epsilon={policy.max_epsilon:g}: epsilon is {before.epsilon(config.delta):.3f} and would be "
            f"{epsilon:.3f} after this round (delta {config.delta:g})",
        )
    own_steps = sum(m.steps for m in before.spent if m.sampling_rate == plan.rate and m.noise_multiplier == noise)
    cost = RecordCost(
        epsilon=epsilon,
        delta=config.delta,
        noise_multiplier=noise,
        sampling_rate=plan.rate,
        steps=own_steps + released[0].steps,
        max_grad_norm=config.max_grad_norm,
        counts_noise=config.counts_noise or 0.0,
        epsilon_before=Accountant(config.accountant, budget.spent(but_of=request.run)).epsilon(config.delta),
        epsilon_cap=policy.max_epsilon if policy.max_epsilon is not None else float("inf"),
        by_patient=float(units.kind == PATIENT),
        earlier_accounts=float(sum(receipt.kind == ACCOUNT for receipt in receipts)),
    )
    # The run's seed is the server's, who could subtract noise made from it: only a simulation may repeat its noise.
    repeatable = site.simulated and config.repeatable_noise
    randomness = SecretRandomness(derive_seed(request.seed, "privacy", site.name) if repeatable else None)
    steps = PrivateSteps(config, noise, randomness, _loads(request))
    return RoundPrivacy(steps=steps, released=released, cost=cost, budget=budget, units=units)


def _loads(request: RoundConfig) -> Tensor | None:
    """The experts' loads of the last merge: known to all, whatever the server makes of them."""
    if not request.expert_loads:
        return None
    loads_K = torch.tensor(request.expert_loads, dtype=torch.float64)
    if len(loads_K) != request.model.expert_count or not bool(((loads_K >= 0) & (loads_K <= 1)).all()):
        raise InvalidMessageError("expert_loads are not a share for each expert")
    return loads_K


def _refuse_forgotten(budget: PrivacyBudget, receipts: Sequence[Receipt]) -> None:
    """What left by the receipts must be in the account: every release is counted before its receipt is written."""
    begun = max((place for place, receipt in enumerate(receipts, 1) if receipt.kind == ACCOUNT), default=0)
    left = Counter(
        (receipt.run, receipt.round)
        for receipt in receipts[begun:]
        if receipt.kind == "training" and any(name.startswith(PREFIX) for name in receipt.metrics)
    )
    forgotten = left - budget.rounds()
    if forgotten:
        (run, server_round), _ = min(forgotten.items())
        raise PolicyRefusalError(
            error_codes.PRIVACY_ACCOUNT,
            f"{budget.file} lacks {forgotten.total()} of {left.total()} private rounds that have left by the receipts, "
            f"the first of them round {server_round} of {run}; restore it from a backup. If the data are others now: "
            "medvlmoe receipts new-account site.yaml",
        )


def _refuse_other_unit(site: SiteConfig, budget: PrivacyBudget, asked: str, units: PrivacyUnits) -> None:
    if site.policy.privacy_unit == PATIENT and units.kind != PATIENT:
        why = "the data tell no patients" if asked == PATIENT else f"the server asks for privacy.unit={asked}"
        raise PolicyRefusalError(error_codes.NO_DIFFERENTIAL_PRIVACY, f"policy.privacy_unit=patient, and {why}")
    if asked != units.kind:
        logger.warning("site %s: the data tell no patients, so privacy.unit is the %s", site.name, units.kind)
    before = budget.unit()
    if before not in (None, units.kind):
        raise PolicyRefusalError(
            error_codes.PRIVACY_ACCOUNT,
            f"{budget.file} counts what was spent by {before}, and this round by {units.kind}: the two do not "
            f"add up; use privacy.unit={before}, or begin a new account: medvlmoe receipts new-account site.yaml",
        )


def evaluation_may_leave(site: SiteConfig, privacy: PrivacyConfig) -> bool:
    """Whether metrics of the validation and test records may leave: they have no noise.

    In a simulation they stay on the machine of whoever has all the data anyway.
    """
    if not privacy.covers_records:
        return True
    return site.simulated or (privacy.release_evaluation and not site.policy.differential_privacy_required)


def plain_counts(units: int, epochs: int, experts: int, top_k: int, known_Y: Tensor) -> tuple[Tensor, Tensor]:
    """Routed samples and known labels as the number of units alone tells them: every expert, every own label alike.

    Args:
        units: training records, or patients; not secret.
        epochs: of the round; counts without privacy add up over them.
        experts: K.
        top_k: experts of a record.
        known_Y: which labels the site has at all, told when it introduced itself.
    """
    return torch.full((experts,), epochs * units * top_k / experts, dtype=torch.float64), known_Y * float(
        epochs * units
    )  # fmt: skip


def noised_counts(
    privacy: RoundPrivacy, routed_K: Tensor, observed_Y: Tensor, known_Y: Tensor, *, top_k: int, epochs: int, epoch: int
) -> tuple[Tensor, Tensor]:
    """Routed samples and known labels with noise.

    A unit adds at most 1 to each of ``top_k`` experts and of the site's own labels, so the L2 sensitivity of all
    counts together is sqrt(top_k + own labels): a patient's records together count as one. Counts below 0 are set to
    0, which costs nothing.

    Args:
        privacy: of the round.
        routed_K: units sent to each expert, each counted once.
        observed_Y: units with a known value of each label, likewise.
        known_Y: which labels the site has at all, told when it introduced itself.
        top_k: experts of a record.
        epochs: of the round; counts without privacy add up over them.
        epoch: number of the round's last epoch.
    """
    assert privacy.steps.config.counts_noise is not None
    deviation = privacy.steps.config.counts_noise * (top_k + int(known_Y.sum())) ** 0.5
    stream = privacy.steps.randomness.stream(epoch, 1)
    noised_K = (routed_K.double() + stream.normal(routed_K.double(), deviation)).clamp(min=0)
    noised_Y = (observed_Y.double() + stream.normal(observed_Y.double(), deviation)).clamp(min=0)
    return noised_K * epochs, torch.where(known_Y, noised_Y, 0.0) * epochs
