"""``privacy.md`` of a run, and its figures in ``summary.json``: what is hidden, what it cost, what is not covered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.privacy.record_cost import RecordCost
from medvlmoe.privacy.units import IMAGE
from strategies.client_level import ClientLevelPrivacy
from strategies.private_merge import noise_deviations


@dataclass(frozen=True, kw_only=True)
class ClientCost:
    """What client-level privacy has cost so far, and what its noise does.

    Attributes:
        epsilon: spent so far.
        delta: at this delta.
        noise_multiplier: of the release of the model.
        releases: models released; one more than rounds for each release that a crash lost.
        hospitals: the public number of hospitals that the sum is divided by.
        bounds: present L2 bound on a hospital's change, by block of parameter groups.
        noise_norm: expected L2 norm of the noise on the model in one round.
        largest_change: the largest L2 norm that the change of the model in one round can have without the noise.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    releases: int
    hospitals: int
    bounds: dict[str, float]
    noise_norm: float
    largest_change: float

    @classmethod
    def of(cls, privacy: ClientLevelPrivacy, sizes: Mapping[str, int]) -> "ClientCost":
        """The cost at this moment; ``sizes`` are the numbers of parameters by block."""
        bounds = dict(privacy.blocks.bounds)
        deviations = noise_deviations(bounds, privacy.noise_multiplier)
        variance = sum(sizes[block] * deviation**2 for block, deviation in deviations.items())
        return cls(
            epsilon=privacy.epsilon(),
            delta=privacy.config.delta,
            noise_multiplier=privacy.noise_multiplier,
            releases=sum(m.steps for m in privacy.accountant.spent) // len(privacy.releases()),
            hospitals=privacy.site_count,
            bounds=bounds,
            noise_norm=math.sqrt(variance) / privacy.site_count,
            largest_change=math.sqrt(sum(bound**2 for bound in bounds.values())),
        )


def summarize_privacy(
    config: PrivacyConfig, client: ClientCost | None, records: Mapping[str, RecordCost]
) -> dict[str, Any]:
    """The entry ``privacy`` of ``summary.json``."""
    found: dict[str, Any] = {"mode": config.mode, "accountant": config.accountant, "adjacency": "add or remove one"}
    if config.covers_records:
        found["unit"] = config.unit
        found["hospitals"] = {
            site: {"unit": cost.unit}
            | {name: value for name, value in asdict(cost).items() if name != "by_patient" and math.isfinite(value)}
            for site, cost in records.items()
        }
    if client is not None:
        found["client"] = asdict(client)
    return found


def privacy_statement(
    config: PrivacyConfig,
    client: ClientCost | None,
    records: Mapping[str, RecordCost],
    *,
    server_round: int,
    sites: Sequence[str],
    measured: bool,
) -> str:
    """The text of ``privacy.md``.

    Args:
        config: what was chosen.
        client: cost of client-level privacy, ``None`` without.
        records: cost of record-level privacy as the hospitals last reported it.
        server_round: rounds finished.
        sites: every hospital of the federation.
        measured: whether metrics of validation or test records reached the run.
    """
    parts = [f"# Privacy statement\n\nDifferential privacy `{config.mode}`, after round {server_round}."]
    if config.covers_records:
        parts.append(_records_part(config, records, sites))
    if client is not None:
        parts.append(_client_part(config, client))
    parts.append(_MEANING)
    parts.append(_not_covered(config, measured))
    return "\n\n".join(parts) + "\n"


def _records_part(config: PrivacyConfig, records: Mapping[str, RecordCost], sites: Sequence[str]) -> str:
    unit = config.unit
    columns = ("hospital", "unit", "epsilon", "delta", "of it before this run", "its own cap", "noise multiplier",
               "sampling rate", "steps", "gradient bound", "counts")  # fmt: skip
    rows = [_cost_row(site, cost) for site, cost in sorted(records.items())]
    rows += [(site, "not reported", *[""] * (len(columns) - 2)) for site in sorted(set(sites) - records.keys())]
    return f"""## What is hidden: every single {unit} of a hospital

Whether one {unit} (with its text and labels) was in a hospital's training data, and what it showed. Two data sets are
neighbours if one has one {unit} more. The hospital itself clips each {unit}'s gradient, adds the noise before anything
leaves it, and keeps the account; the server and the other hospitals are not trusted with it. Each step draws every
{unit} independently of the others, with the sampling rate below. {_of_patients(config, records)}

{_table(columns, rows)}

These are the hospitals' own reports, with their last merged update. What a hospital spent on a round that was lost
or came too late is in its own account, and in its next report. A record that two hospitals hold costs the sum.{
        _released_again(records)
    }{_begun_anew(records)}"""


def _released_again(records: Mapping[str, RecordCost]) -> str:
    return _counts_by_site(
        "Results of one round that were released more than once, and how often",
        {site: cost.releases_again for site, cost in records.items()},
        "They had left the hospital, or were about to, and were lost, came too late or met too few others, so the "
        "round was asked for again. Each is in the epsilon above, which may therefore be larger than the target.",
    )


def _begun_anew(records: Mapping[str, RecordCost]) -> str:
    return _counts_by_site(
        "Accounts that were begun anew, and how often",
        {site: cost.earlier_accounts for site, cost in records.items()},
        "What was spent before, on data that the hospital calls others, is not in the figures above.",
    )


def _counts_by_site(what: str, counts: Mapping[str, float], meaning: str) -> str:
    """A paragraph about the sites whose count is not 0; empty without one."""
    told = ", ".join(f"{site} ({count:.0f})" for site, count in sorted(counts.items()) if count)
    return f"\n\n**{what}: {told}.** {meaning}" if told else ""


def _of_patients(config: PrivacyConfig, records: Mapping[str, RecordCost]) -> str:
    less = "A patient with k images is protected less: epsilon is k times as large, and delta grows as well."
    if config.unit == IMAGE:
        return less
    drawn = (
        "Of each drawn patient one image is taken at random, so that a patient has one gradient in a step however many "
        "images there are. A record without a patient's identifier counts as a patient of its own."
    )
    without = [site for site, cost in sorted(records.items()) if cost.unit == IMAGE]
    if not without:
        return drawn
    return f"{drawn}\n\n**The data of {', '.join(without)} tell no patients: there the unit is the image.** {less}"


def _cost_row(site: str, cost: RecordCost) -> tuple[str, ...]:
    return (
        site,
        cost.unit,
        _up(cost.epsilon),
        f"{cost.delta:g}",
        _up(cost.epsilon_before),
        f"{cost.epsilon_cap:.3g}" if math.isfinite(cost.epsilon_cap) else "none",
        f"{cost.noise_multiplier:.4g}",
        f"{cost.sampling_rate:.4g}",
        f"{cost.steps:.0f}",
        f"{cost.max_grad_norm:g}",
        f"noise multiplier {cost.counts_noise:.3g}" if cost.counts_noise else "not sent",
    )


def _client_part(config: PrivacyConfig, cost: ClientCost) -> str:
    columns = ("epsilon", "delta", "noise multiplier", "models released", "hospitals",
               f"bounds ({config.client.clipping})")  # fmt: skip
    bounds = ", ".join(f"{block} {bound:.4g}" for block, bound in cost.bounds.items())
    row = (_up(cost.epsilon), f"{cost.delta:g}", f"{cost.noise_multiplier:.4g}", str(cost.releases),
           str(cost.hospitals), bounds)  # fmt: skip
    ratio = cost.noise_norm / cost.largest_change
    drowns = "more than all hospitals together can say" if ratio > 1 else "less than all hospitals together can say"
    return f"""## What is hidden: every single hospital's contribution

Whether a hospital's data shaped the model at all. Two federations are neighbours if one has one hospital more. The
**server** clips each hospital's change, adds them up, divides by the public number of hospitals and adds the noise
once, before the model is written or sent: it is trusted, sees each update, and holds the noise. All hospitals are asked
in every round, so nothing is gained by sampling them.

{_table(columns, [row])}

Noise and signal: in one round the noise moves the model by {cost.noise_norm:.3g} (L2 norm), the hospitals' changes by
at most {cost.largest_change:.3g}. Their ratio is {ratio:.3g}: {drowns} in a round.

Beside the models and these figures, this run's folder tells of a hospital only that it took part, when, and the stamps
of its data. Examples, weights, routed samples, norms and losses were used in the server's memory and not kept; there is
no expert ledger. Every expert gets noise, whether or not anybody used it."""


_MEANING = """## What the numbers mean

Whatever an attacker knows already, and whatever is done with the released models: seeing them changes the odds that the
hidden contribution was there by a factor of at most e^epsilon, but for failures of probability delta. For epsilon 1
that factor is 2.7, for 3 it is 20, for 8 it is 2981: a large epsilon only limits the worst case. Epsilons add up over
runs on the same data. The figures are upper bounds, rounded up."""


def _not_covered(config: PrivacyConfig, measured: bool) -> str:
    released = (
        "**Metrics were released**: AUC, accuracy and loss of validation or test records are in this folder, "
        "without noise."
    )
    lines = [
        released if measured else "Metrics: the run has none of validation or test records.",
        "Names of the hospitals and of their labels, stamps of their data, and who took part in which round.",
        "The number of training records (or patients, where they are the unit), which follows from the sampling rate.",
        "What frozen or pretrained weights have seen before: they came from outside.",
        "Tuning: each run on the same data, and each choice between runs, costs on top.",
        "Side channels: how long training took, sizes of messages, logs at a hospital.",
        "The noise comes from a generator that the operating system seeds, not a cryptographic one; the rounding of "
        "floating-point numbers is not part of the proof.",
    ]
    if not config.covers_hospitals:
        lines.append("That a hospital took part, and what its records have in common.")
    if not config.covers_records:
        lines.append(
            "Anything against the server, which sees each update as it is; `privacy.mode=both` protects from it."
        )
    if config.repeatable_noise:
        lines.insert(
            0, "**Everything** (`privacy.repeatable_noise=true`): a simulation's noise follows from the run's seed."
        )
    return "## What is not covered\n\n" + "\n".join(f"- {line}" for line in lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _up(epsilon: float) -> str:
    """Two decimals, rounded up: a bound must stay one."""
    return f"{math.ceil(epsilon * 100 - 1e-9) / 100:.2f}" if math.isfinite(epsilon) else "infinite"
