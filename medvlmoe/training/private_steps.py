"""DP-SGD (Abadi et al. 2016, arXiv 1607.00133) as the trainer's way to take a step.

Shapes: B records in memory at once, N records of the training set, K experts, Y labels.

Noise and choice of the batches come from the hospital's secret, and so do dropout, router noise and augmentation:
they are given out by place in the batch and by row. Known ones would change with the places when a record is left out,
and the others' gradients with them; secret ones are as probable for one place as for another.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medvlmoe.data.batch import Batch
from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import ConfigError
from medvlmoe.model.moe import SparseMoE
from medvlmoe.parallel.rank import Rank
from medvlmoe.privacy.accountant import Accountant
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.privacy.mechanism import Mechanism
from medvlmoe.privacy.noise import noise_for
from medvlmoe.privacy.randomness import SecretRandomness, Stream
from medvlmoe.privacy.units import PrivacyUnits
from medvlmoe.training.batches import ordered_batches
from medvlmoe.training.config import TrainingConfig
from medvlmoe.training.losses import record_losses
from medvlmoe.training.optimizer import trainable_parameters

logger = logging.getLogger(__name__)

# A finished run always has a rest of its target left, below the precision of its noise. Rounds that spend it learn
# nothing (a step with 4 times the noise tells a sixteenth) and spoil what the earlier ones have learned.
_MOST_NOISE_OF_THE_REST = 4.0


@dataclass(frozen=True, kw_only=True)
class SamplingPlan:
    """How the units of a training set (images, or patients) are drawn.

    Attributes:
        units: how many there are.
        rate: probability with which each is in a step's batch, independently of the others.
        steps: steps of an epoch.
    """

    units: int
    rate: float
    steps: int

    @classmethod
    def of(cls, units: int, batch_size: int) -> "SamplingPlan":
        """A batch of ``batch_size`` units on average; with images as many steps an epoch as without privacy."""
        return cls(units=units, rate=min(1.0, batch_size / units), steps=math.ceil(units / batch_size))

    @property
    def expected_batch(self) -> float:
        """Rows of a batch on average."""
        return self.units * self.rate


@dataclass(frozen=True)
class PrivateEpoch:
    """What is drawn for an epoch before it begins, once for all processes that share its batches.

    Attributes:
        epoch: its number.
        plan: how it was drawn.
        steps: rows of every step.
        secret: seed of augmentation, dropout and router noise.
    """

    epoch: int
    plan: SamplingPlan
    steps: list[list[int]]
    secret: int


def planned_noise(config: PrivacyConfig, plan: SamplingPlan, epochs: int, rounds: int) -> float:
    """The noise multiplier of a run's steps: the configured one, or that which reaches ``privacy.target_epsilon``.

    Args:
        config: the choices.
        plan: of the hospital's training set.
        epochs: of the whole run.
        rounds: how often noised counts are released in it.

    Raises:
        ConfigError: no noise reaches the target.
    """
    if config.noise_multiplier is not None:
        return config.noise_multiplier
    assert config.target_epsilon is not None
    return noise_for(
        config.target_epsilon,
        config.delta,
        sampling_rate=plan.rate,
        steps=epochs * plan.steps,
        already_spent=counts_mechanisms(config, rounds),
        kind=config.accountant,
    )


def noise_of_the_rest(
    config: PrivacyConfig, plan: SamplingPlan, epochs: int, rounds: int, noise: float, released: Sequence[Mechanism]
) -> float:
    """The noise multiplier of a run's remaining steps, so that the whole run costs no more than the target.

    It is the planned one where that fits, as it does in a run that goes as planned. A run that is resumed with more
    rounds has released its first ones with the lower noise of a shorter plan: the others then get more.

    Args:
        config: the choices.
        plan: of the hospital's training set.
        epochs: that remain.
        rounds: that remain, for noised counts.
        noise: planned for the whole run, see :func:`planned_noise`.
        released: by the run so far.

    Raises:
        ConfigError: what was released has cost the target, or so much of it that the rest would be noise.
    """
    if config.noise_multiplier is not None or not released:
        return noise
    assert config.target_epsilon is not None
    before = Accountant(config.accountant, [*released, *counts_mechanisms(config, rounds)])
    if before.epsilon_after([step_mechanism(noise, plan, epochs)], config.delta) <= config.target_epsilon:
        return noise
    spent = Accountant(config.accountant, released).epsilon(config.delta)
    why = (
        f"privacy.target_epsilon={config.target_epsilon:g}: the run's earlier rounds have cost epsilon {spent:.3f} at "
        f"delta {config.delta:g}, released with the noise of another plan (fewer rounds, or other data)"
    )
    mend = "use a larger target, or as many rounds as were planned first"
    if before.epsilon(config.delta) >= config.target_epsilon:
        raise ConfigError(f"{why}; that leaves nothing for more rounds: {mend}")
    more = noise_for(
        config.target_epsilon, config.delta, sampling_rate=plan.rate, steps=epochs * plan.steps,
        already_spent=before.spent, kind=config.accountant,
    )  # fmt: skip
    if more > _MOST_NOISE_OF_THE_REST * noise:
        raise ConfigError(f"{why}; the others would need noise {more:.3g} where {noise:.3g} was planned: {mend}")
    logger.warning("%s; the others get noise %.3f where %.3f was planned", why, more, noise)
    return more


def step_mechanism(noise_multiplier: float, plan: SamplingPlan, epochs: int) -> Mechanism:
    """What some epochs of training release."""
    return Mechanism(noise_multiplier=noise_multiplier, sampling_rate=plan.rate, steps=epochs * plan.steps)


def counts_mechanisms(config: PrivacyConfig, rounds: int) -> list[Mechanism]:
    """What the noised counts of some rounds release; nothing if they are not sent."""
    if config.counts_noise is None or rounds == 0:
        return []
    return [Mechanism(noise_multiplier=config.counts_noise, steps=rounds)]


class PrivateSteps:
    """Takes the optimizer's steps of one model with DP-SGD.

    Every trainable parameter gets noise in every step, those of experts that no record chose too: which experts were
    idle is told by the data.

    Args:
        config: clipping and physical batch.
        noise_multiplier: standard deviation of the noise, in units of ``config.max_grad_norm``.
        randomness: of the batches and of the noise.
        loads_K: share of the assignments that each expert had at the last merge, for ``config.balance_alpha``; ``None``
            before the first merge.
    """

    def __init__(
        self,
        config: PrivacyConfig,
        noise_multiplier: float,
        randomness: SecretRandomness,
        loads_K: Tensor | None = None,
    ) -> None:
        if not noise_multiplier > 0:
            raise ConfigError(f"privacy: noise {noise_multiplier} is none; use a noise multiplier above 0")
        self.config, self.noise_multiplier, self.randomness = config, noise_multiplier, randomness
        self.loads_K = loads_K

    def batches(self, units: PrivacyUnits, plan: SamplingPlan, stream: Stream) -> list[list[int]]:
        """The rows of every step of an epoch, of all processes together; a step may have no row at all."""
        return [units.draw(stream, plan.rate) for _ in range(plan.steps)]

    def parts(self, rows: list[int], rank: Rank = Rank()) -> list[list[int]]:  # noqa: B008  # frozen
        """A process's share of a step's rows in parts of ``privacy.physical_batch``; it may have none."""
        return ordered_batches(rows[rank.number :: rank.world_size], self.config.physical_batch)

    def add_part(
        self, model: nn.Module, batch: Batch, space: LabelSpace, ordinal: str, sums: dict[str, Tensor]
    ) -> tuple[float, float]:
        """Add the clipped gradients of some records to ``sums``.

        Returns:
            The sum of the records' losses and, of it, that of the router's loss.

        Raises:
            ConfigError: a gradient is not finite, or a parameter's cannot be told by record.
        """
        from medvlmoe.privacy.record_gradients import RecordGradients  # here: Opacus takes seconds to import

        model.zero_grad(set_to_none=True)
        with RecordGradients(model, len(batch), flat=self.config.clipping == "flat") as gradients:
            output = model(batch.image_BCHW, batch.input_ids_BL, batch.attention_mask_BL)
            loss_B = record_losses(output.logits_BY, batch.labels_BY, space, ordinal)
            router_B = self._router_losses(output, loss_B)
            (loss_B + router_B).sum().backward()
        gradients.finish()
        norms_B = gradients.squared_norms().sqrt()
        if not bool(norms_B.isfinite().all()):
            raise ConfigError("a record's gradient is not finite; lower the learning rate")
        factor_B = (self.config.max_grad_norm / norms_B.clamp(min=self.config.max_grad_norm)).to(norms_B.dtype)
        for name, total in gradients.weighted_sum(factor_B):
            sums[name] = sums[name] + total if name in sums else total
        return (loss_B + router_B).sum().item(), router_B.sum().item()

    def set_gradients(
        self,
        model: nn.Module,
        sums: dict[str, Tensor],
        plan: SamplingPlan,
        stream: Stream | None,
        rank: Rank = Rank(),  # noqa: B008  # frozen
    ) -> None:
        """The step's gradients: (clipped sum + one draw of noise) / records of a batch on average.

        Args:
            model: gets them.
            sums: clipped gradients of the records that this process has.
            plan: of all processes together.
            stream: of the noise; the first process alone has it and adds the noise, for all of them.
            rank: the processes whose sums are one batch's.
        """
        deviation = self.noise_multiplier * self.config.max_grad_norm
        for name, parameter in trainable_parameters(model).items():
            own = sums[name] if name in sums else torch.zeros_like(parameter, requires_grad=False)
            if stream is not None:
                own = own + stream.normal(parameter, deviation)
            parameter.grad = rank.sum(own) / plan.expected_batch

    def _router_losses(self, output: object, like_B: Tensor) -> Tensor:
        """What each record alone says of the router, shape (B,).

        The router z-loss (Zoph et al. 2022, arXiv 2202.08906) is the mean of log(sum exp(logits))^2. The balance loss
        is sum_k f_k p_k as without privacy, but the loads f_k are those of the last merge: constants, so that a
        record changes its own probabilities p_k and nothing of the others.
        """
        routing, loss_B = getattr(output, "routing", None), torch.zeros_like(like_B)
        if routing is None:
            return loss_B
        if self.config.router_z_loss > 0:
            units_BU = routing.logits_BK.logsumexp(-1).square().view(len(like_B), -1)
            loss_B = loss_B + self.config.router_z_loss * units_BU.mean(1)
        if self.config.balance_alpha > 0 and self.loads_K is not None:
            loads_K = self.loads_K.to(routing.probabilities_BK)
            units_BU = (routing.probabilities_BK * loads_K).sum(-1).view(len(like_B), -1)
            loss_B = loss_B + self.config.balance_alpha * units_BU.mean(1)
        return loss_B


def refuse_what_is_not_private(model: nn.Module, training: TrainingConfig, precision: str) -> None:
    """What would break the guarantee of record-level privacy.

    Raises:
        ConfigError: with the reason and the mend.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                "privacy: batch normalisation makes every record's gradient depend on the others, so clipping bounds "
                "nothing; use model.vision.normalisation=group, or another backbone"
            )
        if isinstance(module, SparseMoE) and module.balance_factor > 0:
            refuse_balance_loss()
        if isinstance(module, SparseMoE) and module.entropy_alpha > 0:
            raise ConfigError(
                "privacy: model.moe.entropy_alpha belongs to the batch's auxiliary loss, which private steps leave "
                "out; set it to 0"
            )
    refuse_settings(training, precision)


def refuse_balance_loss() -> None:
    """Raise the ConfigError of a load-balancing loss under record-level privacy."""
    raise ConfigError(
        "privacy: the load-balancing loss multiplies means over the batch, so one record changes the gradient of all "
        "others and clipping bounds nothing; set model.moe.balance_alpha=0 (privacy.balance_alpha "
        "takes the loads of the last merge instead; privacy.router_z_loss and model.moe.router_noise act on each "
        "record alone)"
    )


def refuse_settings(training: TrainingConfig, precision: str) -> None:
    """The part of :func:`refuse_what_is_not_private` that needs no model; ``auto`` precision is let pass.

    Raises:
        ConfigError: with the reason and the mend.
    """
    if precision not in ("float32", "auto"):
        raise ConfigError(
            f"privacy: training.precision={precision}: rounding to 16 bits happens after a gradient was bounded, and "
            "float16's loss scale leaves steps out by what the data do; use training.precision=float32"
        )
    if training.gradient_clip is not None:
        raise ConfigError(
            f"privacy: training.gradient_clip={training.gradient_clip} would clip the noised gradient once more; every "
            "record's gradient is bounded already by privacy.max_grad_norm: set gradient_clip=null"
        )
    if training.accumulate > 1:
        raise ConfigError(
            f"privacy: training.accumulate={training.accumulate}: the drawn batch differs in size from step to step; "
            "set accumulate=1 and privacy.physical_batch to what fits in memory"
        )
    if training.gradient_checkpointing:
        raise ConfigError(
            "privacy: training.gradient_checkpointing frees the activations that every record's gradient is made of; "
            "switch it off and lower privacy.physical_batch"
        )
    if training.patience > 0:
        raise ConfigError(
            f"privacy: training.patience={training.patience}: early stopping looks at the validation records without "
            "noise; set patience=0"
        )
