"""Record-level differential privacy at a site: what a round will cost, whether it may, and what may leave.

Shapes: K experts, Y labels.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from client.account import Attempt, PrivacyBudget, Release, budget_of
from client.config import SiteConfig
from client.policy import PolicyRefusalError
from client.receipts import Receipt, ReceiptChain
from client.receipts.receipt import ACCOUNT
from medvlmoe.errors import ConfigError
from medvlmoe.privacy.accountant import Accountant
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.privacy.mechanism import Mechanism
from medvlmoe.privacy.randomness import SecretRandomness
from medvlmoe.privacy.record_cost import PREFIX, RecordCost
from medvlmoe.privacy.units import PATIENT, PrivacyUnits
from medvlmoe.seeds import derive_seed
from medvlmoe.training.private_steps import (
    PrivateSteps,
    SamplingPlan,
    counts_mechanisms,
    noise_of_the_rest,
    planned_noise,
    step_mechanism,
)
from strategies import error_codes
from strategies.messages import InvalidMessageError, RoundConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RoundPrivacy:
    """One round of DP-SGD at a site.

    Attributes:
        steps: how the trainer takes its steps.
        released: what the round will have released.
        cost: of everything up to the end of the round.
        units: what is hidden.
    """

    steps: PrivateSteps
    released: list[Mechanism]
    cost: RecordCost
    units: PrivacyUnits


def open_round(site: SiteConfig, request: RoundConfig, units: PrivacyUnits) -> RoundPrivacy:
    """Look at a round before it begins. Nothing is counted yet.

    Args:
        site: the site.
        request: the round.
        units: of the site's training records.

    Raises:
        PolicyRefusalError: it would exceed the site's ``policy.max_epsilon``, hides less than ``policy.privacy_unit``,
            or something else than what was spent before; or the account is not that of what has left by the receipts.
        ConfigError: ``delta`` is too large for so few units, or no noise reaches the target after what the run has
            released.
        InvalidMessageError: the experts' loads are no shares.
    """
    policy, count = site.policy, len(units)
    config = replace(request.privacy, delta=min(request.privacy.delta, policy.max_delta))
    _refuse_other_unit(site, request.privacy.unit, units)
    if config.delta * count >= 1:
        raise ConfigError(
            f"privacy.delta={config.delta:g} with {count} {units.kind}s: publishing one record whole would satisfy it; "
            f"use less than {1 / count:.1g}"
        )
    plan = SamplingPlan.of(count, request.training.batch_size)
    noise = planned_noise(config, plan, request.rounds * request.local_epochs, request.rounds)
    left = max(1, request.rounds - request.round + 1)
    released_before = budget_of(site).released_before(request.run, request.round)
    noise = noise_of_the_rest(config, plan, left * request.local_epochs, left, noise, released_before)
    released = [step_mechanism(noise, plan, request.local_epochs), *counts_mechanisms(config, 1)]
    # The run's seed is the server's, who could subtract noise made from it: only a simulation may repeat its noise.
    repeatable = site.simulated and config.repeatable_noise
    randomness = SecretRandomness(derive_seed(request.seed, "privacy", site.name) if repeatable else None)
    steps = PrivateSteps(config, noise, randomness, _loads(request))
    return RoundPrivacy(
        steps=steps, released=released, cost=_cost_after(site, request, config, released, units), units=units
    )


def begin_round(site: SiteConfig, request: RoundConfig, opened: RoundPrivacy) -> tuple[RoundPrivacy, Attempt]:
    """Write an opened round as pending: it counts from now on, until it is released or its process ends.

    Returns:
        The round, its cost as it is at this moment, and the attempt, which the caller releases or ends.

    Raises:
        PolicyRefusalError: another run has spent meanwhile what this round needs.
        CheckpointError: the account cannot be written; then the round must not begin.
    """
    budget = budget_of(site)
    with budget.alone():  # nobody spends between the look at the cap and the line
        cost = _cost_after(site, request, opened.steps.config, opened.released, opened.units)
        attempt = budget.begin(request.run, request.round, opened.released, opened.units.kind)
    return replace(opened, cost=cost), attempt


def _cost_after(
    site: SiteConfig, request: RoundConfig, config: PrivacyConfig, released: list[Mechanism], units: PrivacyUnits
) -> RecordCost:
    """What everything up to the end of the round will have cost."""
    policy, budget = site.policy, budget_of(site)
    receipts = ReceiptChain(site.receipts_file).receipts()  # before the account: that is never behind them
    refuse_forgotten(budget, receipts)
    _refuse_mixed_units(budget, units)
    before = Accountant(config.accountant, budget.spent())
    epsilon = before.epsilon_after(released, config.delta)
    if policy.max_epsilon is not None and epsilon > policy.max_epsilon:
        raise PolicyRefusalError(
            error_codes.PRIVACY_SPENT,
            f"policy.max_epsilon={policy.max_epsilon:g}: epsilon is {before.epsilon(config.delta):.3f} and would be "
            f"{epsilon:.3f} after this round (delta {config.delta:g})",
        )
    steps = released[0]
    alike = [
        m
        for m in before.spent
        if (m.sampling_rate, m.noise_multiplier) == (steps.sampling_rate, steps.noise_multiplier)
    ]
    return RecordCost(
        epsilon=epsilon,
        delta=config.delta,
        noise_multiplier=steps.noise_multiplier,
        sampling_rate=steps.sampling_rate,
        steps=sum(m.steps for m in alike) + steps.steps,
        max_grad_norm=config.max_grad_norm,
        counts_noise=config.counts_noise or 0.0,
        epsilon_before=Accountant(config.accountant, budget.spent(but_of=request.run)).epsilon(config.delta),
        epsilon_cap=policy.max_epsilon if policy.max_epsilon is not None else float("inf"),
        by_patient=float(units.kind == PATIENT),
        earlier_accounts=float(sum(receipt.kind == ACCOUNT for receipt in receipts)),
        releases_again=float(budget.releases_again(request.run, request.round)),
    )


def _loads(request: RoundConfig) -> Tensor | None:
    """The experts' loads of the last merge: known to all, whatever the server makes of them."""
    if not request.expert_loads:
        return None
    loads_K = torch.tensor(request.expert_loads, dtype=torch.float64)
    if len(loads_K) != request.model.expert_count or not bool(((loads_K >= 0) & (loads_K <= 1)).all()):
        raise InvalidMessageError("expert_loads are not a share for each expert")
    return loads_K


def refuse_forgotten(budget: PrivacyBudget, receipts: Sequence[Receipt]) -> None:
    """What left by the receipts must be in the account, number by number: it is charged before its receipt is written.

    Raises:
        PolicyRefusalError: a round is missing there, or other mechanisms are charged for it.
    """
    begun = max((place for place, receipt in enumerate(receipts, 1) if receipt.kind == ACCOUNT), default=0)
    left = Counter(
        Release(receipt.run, receipt.round, receipt.privacy)
        for receipt in receipts[begun:]
        if receipt.kind == "training" and any(name.startswith(PREFIX) for name in receipt.metrics)
    )
    forgotten = _missing(left, budget.releases())
    if forgotten:
        first = min(forgotten)
        raise PolicyRefusalError(
            error_codes.PRIVACY_ACCOUNT,
            f"{budget.file} lacks {forgotten.total()} of {left.total()} private rounds that have left by the receipts, "
            f"or charges them with other numbers, the first of them round {first.round} of {first.run}; restore it "
            "from a backup. If the data are others now: medvlmoe receipts new-account site.yaml",
        )


def _missing(left: Counter[Release], account: Counter[Release]) -> Counter[Release]:
    """What of the first is not in the second; an entry that does not say what was charged fits any of its round."""
    told = Counter({release: times for release, times in left.items() if release.charged})
    missing, rest = told - account, account - told
    of_round = Counter[Release]()
    for release, times in rest.items():
        of_round[release._replace(charged="")] += times
    return missing + (left - told - of_round)


def _refuse_other_unit(site: SiteConfig, asked: str, units: PrivacyUnits) -> None:
    if site.policy.privacy_unit == PATIENT and units.kind != PATIENT:
        why = "the data tell no patients" if asked == PATIENT else f"the server asks for privacy.unit={asked}"
        raise PolicyRefusalError(error_codes.NO_DIFFERENTIAL_PRIVACY, f"policy.privacy_unit=patient, and {why}")
    if asked != units.kind:
        logger.warning("site %s: the data tell no patients, so privacy.unit is the %s", site.name, units.kind)


def _refuse_mixed_units(budget: PrivacyBudget, units: PrivacyUnits) -> None:
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
