"""DP-SGD on two processes against one: the same records, the same noise, added once.

The processes are started once for all tests here.
"""

import pytest
import torch
from torch import Tensor

from medvlmoe.data.batch import Batch
from medvlmoe.errors import ConfigError
from medvlmoe.parallel.local_processes import close_local_processes
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.privacy.randomness import SecretRandomness
from medvlmoe.privacy.units import PrivacyUnits
from medvlmoe.training import Trainer, TrainingConfig
from medvlmoe.training.private_steps import PrivateSteps, SamplingPlan
from tests.medvlmoe.privacy.models import MODELS, SPACE, make_batch, rows_of

ROWS = 11


@pytest.fixture(scope="module", autouse=True)
def end_of_the_processes():
    yield
    close_local_processes()


class Records:
    """A batch as a data set; the other process gets a copy."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch)

    def __getitems__(self, indices: list[int]) -> Batch:
        return rows_of(self.batch, list(indices))


class Drawn(PrivateSteps):
    """Steps whose records are given."""

    steps: list[list[int]]

    def batches(self, *_: object) -> list[list[int]]:
        return self.steps


def give(each: Trainer, *steps: list[int]) -> None:
    assert each.private_steps is not None
    each.private_steps.__class__ = Drawn
    each.private_steps.steps = list(steps)  # type: ignore[attr-defined]


def trainer(devices: int, name: str, *, noise: float = 1.0, batch_size: int = 4, **keys: object) -> Trainer:
    config = PrivacyConfig(**{"mode": "record", "noise_multiplier": noise, "physical_batch": 2, **keys})  # type: ignore[arg-type]
    training = TrainingConfig(
        batch_size=batch_size, precision="float32", warmup_epochs=0, schedule="constant", head_learning_rate=1e-3,
        encoder_learning_rate=1e-3, patience=0,
    )  # fmt: skip
    steps = PrivateSteps(config, noise, SecretRandomness(3))
    return Trainer(
        MODELS[name](), training, SPACE, seed=0, devices=devices, total_epochs=2, private_steps=steps
    )  # fmt: skip


def state(each: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in (each.model.state_dict() | each.optimizer_tensors()).items()}


def gradients_of(each: Trainer, records: Records) -> list[dict[str, Tensor]]:
    """The gradients of every step of an epoch, as the optimizer gets them."""
    kept: list[dict[str, Tensor]] = []
    step = each.optimizer.step

    def keep() -> None:
        kept.append({n: p.grad.clone() for n, p in each.model.named_parameters() if p.grad is not None})
        step()

    each.optimizer.step = keep  # type: ignore[method-assign,assignment]
    each.train_epoch(records, 0)
    return kept


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet", {}),
        ("dense", {"clipping": "flat"}),
        ("tokens", {"router_z_loss": 0.5, "max_grad_norm": 0.1}),
        ("null_token", {"unit": "patient"}),
        ("frozen", {"physical_batch": 64}),
    ],
)
def test_two_processes_are_one(name: str, keys: dict) -> None:
    batch = make_batch(MODELS[name](), ROWS)
    records = Records(batch)
    records.tells_patients, records.patient_ids = True, [f"p{row // 2}" for row in range(ROWS)]  # type: ignore[attr-defined]
    one, two = (trainer(devices, name, **keys) for devices in (1, 2))
    results = [[each.train_epoch(records, epoch) for epoch in range(2)] for each in (one, two)]
    before, after = state(one), state(two)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        torch.testing.assert_close(after[key], tensor, atol=1e-5, rtol=1e-5, msg=lambda text, key=key: key + text)
    for ours, theirs in zip(*results, strict=True):
        assert (ours.samples, ours.steps) == (theirs.samples, theirs.steps)
        assert torch.equal(ours.observed_labels_Y, theirs.observed_labels_Y)
        assert theirs.mean_loss == pytest.approx(ours.mean_loss, rel=1e-5)
    assert torch.equal(one.model.routed_samples(), two.model.routed_samples())  # type: ignore[operator]


def test_the_noised_sum_of_two_processes_is_that_of_one() -> None:
    records = Records(make_batch(MODELS["resnet"](), ROWS))
    one, two = (gradients_of(trainer(devices, "resnet", max_grad_norm=0.3), records) for devices in (1, 2))
    assert len(one) == len(two) == 3
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_noise_is_added_once_for_all_processes() -> None:
    """With every gradient at 0 what is left is the noise: sigma C / expected batch, not sqrt(2) of it."""
    batch = make_batch(MODELS["resnet"](), ROWS)
    batch.labels_BY.fill_(torch.nan)
    for step in gradients_of(trainer(2, "resnet", noise=2.0, max_grad_norm=0.5), Records(batch)):
        noise = torch.cat([gradient.flatten() for gradient in step.values()])
        assert float(noise.std()) == pytest.approx(2.0 * 0.5 / 4, rel=5 / (2 * len(noise)) ** 0.5)


def test_a_step_with_fewer_records_than_processes_is_taken() -> None:
    """A Poisson sample may be empty, or leave a process without any record."""
    records = Records(make_batch(MODELS["resnet"](), 3))
    pair = [trainer(devices, "resnet", batch_size=2) for devices in (1, 2)]
    for each in pair:
        give(each, [], [2], [0, 1, 2])
    one, two = (gradients_of(each, records) for each in pair)
    for ours, theirs in zip(one, two, strict=True):
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
        assert all(gradient.all() for gradient in theirs.values())


def test_every_drawn_record_is_in_one_share() -> None:
    """The sample is drawn over the whole data set, with its rate, and then divided."""
    from medvlmoe.parallel.rank import Rank

    steps = trainer(1, "resnet", physical_batch=3).private_steps
    assert steps is not None
    plan = SamplingPlan.of(50, 20)
    for rows in steps.batches(PrivacyUnits.images(50), plan, steps.randomness.stream(0)):
        shares = [[row for part in steps.parts(rows, Rank(number, 3)) for row in part] for number in range(3)]
        assert sorted(row for share in shares for row in share) == sorted(rows)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_gradient_that_is_not_finite_in_the_other_process_is_the_same_error() -> None:
    batch = make_batch(MODELS["resnet"](), 4)
    batch.image_BCHW[3] = torch.inf
    each = trainer(2, "resnet", batch_size=4)
    give(each, [0, 3])
    with pytest.raises(ConfigError, match="a record's gradient is not finite"):
        each.train_epoch(Records(batch), 0)
