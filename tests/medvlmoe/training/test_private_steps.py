"""DP-SGD's steps: bounded, noised once, drawn independently, the same in parts."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medvlmoe.data.batch import Batch
from medvlmoe.errors import ConfigError
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.privacy.randomness import SecretRandomness
from medvlmoe.privacy.units import PrivacyUnits
from medvlmoe.training import Trainer, TrainingConfig
from medvlmoe.training.losses import record_losses
from medvlmoe.training.private_steps import (
    PrivateSteps,
    SamplingPlan,
    counts_mechanisms,
    planned_noise,
    step_mechanism,
)
from tests.medvlmoe.privacy.models import MODELS, SPACE, make_batch, rows_of, tiny_model

NOISELESS = 1e-12


class Records:
    """A batch as a data set."""

    def __init__(self, batch: Batch) -> None:
        self.batch, self.asked = batch, []

    def __len__(self) -> int:
        return len(self.batch)

    def __getitems__(self, indices: list[int]) -> Batch:
        self.asked.append(list(indices))
        return rows_of(self.batch, list(indices))


def private(noise: float = NOISELESS, seed: int | None = 3, **keys: object) -> PrivateSteps:
    config = PrivacyConfig(**{"mode": "record", "noise_multiplier": noise, **keys})  # type: ignore[arg-type]
    return PrivateSteps(config, noise, SecretRandomness(seed))


def trainer_of(model: nn.Module, steps: PrivateSteps | None, seed: int = 0, **config: object) -> Trainer:
    values: dict = {"batch_size": 6, "precision": "float32", "warmup_epochs": 0, "schedule": "constant",
                    "head_learning_rate": 1e-3, "encoder_learning_rate": 1e-3, "patience": 0}  # fmt: skip
    return Trainer(
        model, TrainingConfig(**values | config), SPACE, seed=seed, total_epochs=2, private_steps=steps
    )  # fmt: skip


def clipped_sum(model: nn.Module, batch: Batch, steps: PrivateSteps) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    if len(batch):
        steps.add_part(model, batch, SPACE, "cross_entropy", sums)
    return {
        name: sums.get(name, torch.zeros_like(parameter)) for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }  # fmt: skip


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return float(sum((one[name] - other[name]).double().square().sum() for name in one)) ** 0.5


@pytest.mark.parametrize("clipping", ["flat", "ghost"])
@pytest.mark.parametrize("name", ["vit", "tokens", "resnet"])
def test_a_record_moves_the_sum_by_at_most_the_bound(name: str, clipping: str) -> None:
    model = MODELS[name]()
    batch = make_batch(model, 5)
    for bound in (0.1, 1.0):
        steps = private(clipping=clipping, max_grad_norm=bound)
        whole = clipped_sum(model, batch, steps)
        moved = [
            distance(whole, clipped_sum(model, rows_of(batch, [row for row in range(5) if row != gone]), steps))
            for gone in range(5)
        ]
        assert max(moved) <= bound * (1 + 1e-4)
        if bound == 0.1:  # every gradient is longer: the bound is reached, over all parameters together
            assert moved == pytest.approx([bound] * 5, rel=1e-3)


def test_ghost_and_flat_clipping_give_the_same_sum() -> None:
    model = MODELS["vit"]()
    batch = make_batch(model, 5)
    ghost, flat = (clipped_sum(model, batch, private(clipping=how, max_grad_norm=0.3)) for how in ("ghost", "flat"))
    assert distance(ghost, flat) < 1e-6 * 5


def test_a_short_gradient_is_not_stretched() -> None:
    model = MODELS["resnet"]()
    batch = make_batch(model, 4)
    wide, wider = (clipped_sum(model, batch, private(max_grad_norm=bound)) for bound in (1e4, 1e6))
    assert distance(wide, wider) == 0


def test_a_record_without_labels_gives_nothing() -> None:
    model = MODELS["resnet"]()
    batch = make_batch(model, 1)
    batch.labels_BY.fill_(torch.nan)
    assert all(not total.any() for total in clipped_sum(model, batch, private()).values())


@pytest.mark.parametrize("clipping", ["flat", "ghost"])
def test_parts_are_one_batch(clipping: str) -> None:
    records = Records(make_batch(MODELS["resnet"](), 12))
    trained = []
    for physical in (1, 3, 64):
        trainer = trainer_of(
            MODELS["resnet"](), private(0.5, clipping=clipping, physical_batch=physical), beta2=0.99, weight_decay=0.0
        )
        trainer.private_steps.set_gradients = _kept(trainer)  # type: ignore[union-attr,method-assign]
        trainer.train_epoch(records, 0)
        trained.append(trainer.kept)  # type: ignore[attr-defined]
    for other in trained[1:]:
        assert len(other) == len(trained[0]) == 2
        for one, two in zip(trained[0], other, strict=True):
            assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def _kept(trainer: Trainer):
    """Gradients of every step, the weights unmoved by them."""
    trainer.kept = []  # type: ignore[attr-defined]
    original = PrivateSteps.set_gradients.__get__(trainer.private_steps)

    def keep(model, *arguments):
        original(model, *arguments)
        trainer.kept.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)

    return keep


def test_the_noise_is_one_draw_a_step_of_the_right_size() -> None:
    """With every gradient at 0 what is left is the noise: normal, sigma C / expected batch, independent."""
    model = MODELS["resnet"]()
    batch = make_batch(model, 12)
    batch.labels_BY.fill_(torch.nan)
    sigma, bound = 2.0, 0.5
    trainer = trainer_of(model, private(sigma, max_grad_norm=bound, physical_batch=2), batch_size=3)
    trainer.private_steps.set_gradients = _kept(trainer)  # type: ignore[union-attr,method-assign]
    trainer.train_epoch(Records(batch), 0)
    steps = [torch.cat([gradient.flatten() for gradient in step.values()]) for step in trainer.kept]  # type: ignore[attr-defined]
    assert len(steps) == 4
    expected = sigma * bound / 3
    for step in steps:
        count = len(step)
        assert float(step.std()) == pytest.approx(expected, rel=5 / (2 * count) ** 0.5)
        assert abs(float(step.mean())) < 5 * expected / count**0.5
        share = float((step.abs() < expected).float().mean())
        assert share == pytest.approx(0.6827, abs=5 * (0.22 / count) ** 0.5)
    correlation = float(np.corrcoef(steps[0], steps[1])[0, 1])
    assert abs(correlation) < 5 / len(steps[0]) ** 0.5


def test_every_trainable_parameter_is_noised_in_every_step_idle_experts_too() -> None:
    model = tiny_model("test_resnet", moe={"experts": 6})
    model.moe.router.weight.data.zero_()  # every record goes to the same two
    trainer = trainer_of(model, private(1.0), batch_size=4)
    trainer.private_steps.set_gradients = _kept(trainer)  # type: ignore[union-attr,method-assign]
    trainer.train_epoch(Records(make_batch(model, 8)), 0)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for step in trainer.kept:  # type: ignore[attr-defined]
        assert step.keys() == names
        assert all(gradient.all() for gradient in step.values())


def test_a_step_without_a_record_is_taken_with_noise() -> None:
    model = MODELS["resnet"]()
    trainer = trainer_of(model, private(1.0), batch_size=1)
    plan = SamplingPlan.of(3, 1)
    stream = trainer.private_steps.randomness.stream(0)  # type: ignore[union-attr]
    steps = trainer.private_steps.batches(PrivacyUnits.images(3), plan, stream)  # type: ignore[union-attr]
    assert [] in steps  # with this seed
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    result = trainer.train_epoch(Records(make_batch(model, 3)), 0)
    assert result.steps == 3
    for name, tensor in model.named_parameters():
        assert not tensor.requires_grad or (tensor != before[name]).float().mean() > 0.9, name


def test_batches_are_poisson_samples() -> None:
    plan = SamplingPlan.of(200, 30)
    assert (plan.rate, plan.steps) == (0.15, 7)
    steps = private(physical_batch=8)
    times_N, sizes = np.zeros(200), []
    for epoch in range(60):
        for rows in steps.batches(PrivacyUnits.images(200), plan, steps.randomness.stream(epoch)):
            parts = steps.parts(rows)
            assert [row for part in parts for row in part] == rows
            assert len(set(rows)) == len(rows) and all(len(part) == 8 for part in parts[:-1])
            times_N[rows] += 1
            sizes.append(len(rows))
    draws = 60 * 7
    assert np.mean(sizes) == pytest.approx(30, abs=5 * (200 * 0.15 * 0.85 / draws) ** 0.5)
    assert np.var(sizes) == pytest.approx(200 * 0.15 * 0.85, rel=0.4)
    assert np.abs(times_N - draws * 0.15).max() < 5 * (draws * 0.15 * 0.85) ** 0.5


class Patients(Records):
    """Records of patients 0, 1 and 2, who have one, two and five of them."""

    tells_patients = True

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.patient_ids = [f"patient {place}" for place in (0, 1, 1, 2, 2, 2, 2, 2)]
        self.epoch_seeds: list[int] = []

    def at_epoch(self, seed: int, epoch: int) -> "Patients":
        self.epoch_seeds.append(seed)
        return self


def test_a_patient_moves_the_sum_by_at_most_the_bound() -> None:
    model = MODELS["resnet"]()
    batch = make_batch(model, 8)
    records = Patients(batch)
    units = PrivacyUnits.of("patient", records)
    steps = private(max_grad_norm=0.1, unit="patient")
    stream, moved = steps.randomness.stream(0), []
    for _ in range(5):
        drawn = units.draw(stream, 0.8)
        whole = clipped_sum(model, rows_of(batch, drawn), steps)
        for patient in {records.patient_ids[row] for row in drawn}:
            others = [row for row in drawn if records.patient_ids[row] != patient]
            moved.append(distance(whole, clipped_sum(model, rows_of(batch, others), steps)))
    assert max(moved) <= 0.1 * (1 + 1e-4)  # one gradient each, however many images
    assert sorted(moved)[len(moved) // 2] == pytest.approx(0.1, rel=1e-3)


def test_training_by_patient_asks_for_one_image_of_each() -> None:
    records = Patients(make_batch(MODELS["resnet"](), 8))
    trainer = trainer_of(MODELS["resnet"](), private(1.0, unit="patient"), batch_size=2)
    asked: set[int] = set()
    for epoch in range(12):
        result = trainer.train_epoch(records, epoch)
        assert result.steps == 2  # of three patients, two a batch on average
    for rows in records.asked:
        patients = [records.patient_ids[row] for row in rows]
        assert len(set(patients)) == len(patients)
        asked |= set(rows)
    assert asked == set(range(8))


def test_a_run_by_patient_that_goes_on_is_the_uninterrupted_one() -> None:
    records = Patients(make_batch(MODELS["resnet"](), 8))
    whole, first, second = (
        trainer_of(MODELS["resnet"](), private(1.0, unit="patient"), batch_size=2) for _ in range(3)
    )
    for epoch in range(2):
        whole.train_epoch(records, epoch)
    first.train_epoch(records, 0)
    second.model.load_state_dict(first.model.state_dict())
    second.load_optimizer_tensors({name: value.clone() for name, value in first.optimizer_tensors().items()})
    second.train_epoch(records, 1)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.model.state_dict().items())


def test_augmentation_and_dropout_do_not_follow_the_seed_of_the_run() -> None:
    """They are given out by row and by place in the batch, which shift when a record is left out."""
    records = Patients(make_batch(MODELS["resnet"](), 8))
    drawn = []
    for secret in (1, 2):
        trainer = trainer_of(MODELS["resnet"](), private(1.0, seed=secret), seed=0)
        add = trainer.private_steps.add_part  # type: ignore[union-attr]
        numbers: list[float] = []

        def noting(*arguments, add=add, numbers=numbers):
            numbers.append(float(torch.rand(())))
            return add(*arguments)

        trainer.private_steps.add_part = noting  # type: ignore[union-attr,method-assign]
        trainer.train_epoch(records, 0)
        drawn.append(numbers[0])
    assert drawn[0] != drawn[1]
    assert len(set(records.epoch_seeds)) == 2 and 0 not in records.epoch_seeds


def test_a_set_smaller_than_the_batch_is_used_whole() -> None:
    plan = SamplingPlan.of(4, 32)
    assert (plan.rate, plan.steps, plan.expected_batch) == (1.0, 1, 4)


def test_secret_numbers_do_not_follow_the_seed_of_the_run() -> None:
    records = Records(make_batch(MODELS["resnet"](), 6))

    def weights(seed: int | None) -> Tensor:
        trainer = trainer_of(MODELS["resnet"](), private(1.0, seed=seed), seed=0)
        trainer.train_epoch(records, 0)
        return trainer.model.head.weight.detach().clone()

    assert torch.equal(weights(5), weights(5))
    assert not torch.equal(weights(5), weights(6))
    assert not torch.equal(weights(None), weights(None))  # the run's seed is the same


def test_epochs_have_streams_of_their_own() -> None:
    randomness = SecretRandomness(1)
    like = torch.zeros(100)
    assert torch.equal(randomness.stream(2).normal(like, 1.0), randomness.stream(2).normal(like, 1.0))
    assert not torch.equal(randomness.stream(2).normal(like, 1.0), randomness.stream(3).normal(like, 1.0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gradient_clip": 1.0}, "gradient_clip"),
        ({"accumulate": 2}, "physical_batch"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing"),
        ({"patience": 3}, "early stopping"),
        ({"precision": "bfloat16"}, "float32"),
    ],
)
def test_training_that_breaks_the_guarantee_is_refused(change: dict, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        trainer_of(MODELS["resnet"](), private(1.0), **change)


def test_models_that_break_the_guarantee_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch normalisation"):
        trainer_of(tiny_model("test_resnet", vision={"normalisation": "batch"}), private(1.0))
    with pytest.raises(ConfigError, match="load-balancing"):
        trainer_of(tiny_model("test_resnet", moe={"balance_alpha": 0.01}), private(1.0))
    with pytest.raises(ConfigError, match="noise"):
        PrivateSteps(PrivacyConfig(), 0.0, SecretRandomness())


def test_the_router_loss_is_each_records_own() -> None:
    model = tiny_model("test_resnet", moe={"unit": "token"})
    batch = make_batch(model, 4)
    steps = private(max_grad_norm=1e6, router_z_loss=0.7)
    whole = clipped_sum(model, batch, steps)
    alone = [clipped_sum(model, rows_of(batch, [row]), steps) for row in range(4)]
    together = {name: sum(one[name] for one in alone) for name in whole}
    assert distance(whole, together) < 1e-4
    without = clipped_sum(model, batch, private(max_grad_norm=1e6))
    assert float((whole["moe.router.weight"] - without["moe.router.weight"]).abs().max()) > 1e-3


@pytest.mark.parametrize("clipping", ["flat", "ghost"])
@pytest.mark.parametrize("unit", ["sample", "token"])
def test_the_balance_loss_with_constant_loads_is_each_records_own(unit: str, clipping: str) -> None:
    """Held to a plain loop over single records: each alone, with the loss written out, clipped and added up.

    In double precision: in single precision the order of the additions alone is seen at 1e-5.
    """
    model = tiny_model("test_resnet", moe={"unit": unit}).double()
    batch = make_batch(model, 5)
    batch = dataclasses.replace(batch, image_BCHW=batch.image_BCHW.double())
    loads_K, alpha, bound = torch.tensor([0.7, 0.0, 0.2, 0.1]), 3.0, 0.5
    config = PrivacyConfig(mode="record", noise_multiplier=1.0, counts_noise=1.0, balance_alpha=alpha,
                           max_grad_norm=bound, clipping=clipping)  # fmt: skip
    found = clipped_sum(model, batch, PrivateSteps(config, 1.0, SecretRandomness(3), loads_K))
    expected = {name: torch.zeros_like(value) for name, value in found.items()}
    for row in range(5):
        one = rows_of(batch, [row])
        model.zero_grad(set_to_none=True)
        output = model(one.image_BCHW, one.input_ids_BL, one.attention_mask_BL)
        loss = record_losses(output.logits_BY, one.labels_BY, SPACE).sum()
        (loss + alpha * (output.routing.probabilities_BK.mean(0) * loads_K).sum()).backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        norm = float(sum(gradient.double().square().sum() for gradient in gradients.values())) ** 0.5
        for name, gradient in gradients.items():
            expected[name] += gradient * min(1.0, bound / norm)
    assert distance(found, expected) < 1e-9
    without = clipped_sum(model, batch, PrivateSteps(config, 1.0, SecretRandomness(3)))
    assert float((found["moe.router.weight"] - without["moe.router.weight"]).abs().max()) > 1e-3


def test_the_balance_loss_turns_records_away_from_a_busy_expert() -> None:
    model = tiny_model("test_resnet")
    batch = make_batch(model, 6)
    batch.labels_BY.fill_(torch.nan)  # the router's loss is all there is
    config = PrivacyConfig(mode="record", noise_multiplier=1.0, counts_noise=1.0, balance_alpha=1.0)

    def busy() -> float:
        with torch.no_grad():
            output = model(batch.image_BCHW, batch.input_ids_BL, batch.attention_mask_BL)
        return float(output.routing.probabilities_BK[:, 2].mean())

    before = busy()
    steps = PrivateSteps(config, 1.0, SecretRandomness(3), torch.tensor([0.0, 0.0, 1.0, 0.0]))
    gradients = clipped_sum(model, batch, steps)
    with torch.no_grad():
        model.moe.router.weight -= 0.1 * gradients["moe.router.weight"]
    assert busy() < before


def test_the_target_is_solved_for_over_the_whole_run() -> None:
    from medvlmoe.privacy.accountant import Accountant

    plan = SamplingPlan.of(1000, 50)
    config = PrivacyConfig(mode="record", target_epsilon=3.0, counts_noise=20.0)
    noise = planned_noise(config, plan, epochs=10, rounds=5)
    spent = [step_mechanism(noise, plan, 10), *counts_mechanisms(config, 5)]
    assert Accountant("rdp", spent).epsilon(1e-5) == pytest.approx(3.0, rel=0.01)
    assert Accountant("rdp", spent).epsilon(1e-5) <= 3.0
    fixed = dataclasses.replace(config, target_epsilon=None, noise_multiplier=1.3)
    assert planned_noise(fixed, plan, epochs=10, rounds=5) == 1.3
