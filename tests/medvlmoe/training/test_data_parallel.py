"""Two processes that share every batch against one process. The processes are started once for all tests here."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medvlmoe.errors import ConfigError
from medvlmoe.model import FusionConfig, MedVLMoEConfig, MoEConfig, TextConfig, VisionConfig, build_model
from medvlmoe.model.config import LoRAConfig
from medvlmoe.model.moe import SparseMoE, balance_sum
from medvlmoe.parallel.local_processes import close_local_processes
from medvlmoe.training import Trainer, TrainingConfig
from medvlmoe.training.batches import shuffled_batches
from medvlmoe.training.device import resolve_devices
from medvlmoe.training.precision import Precision
from tests.medvlmoe.training.stand_ins import MIXED, MemoryDataset, make_rows

IMAGE_SIZE = 32


@pytest.fixture(scope="module", autouse=True)
def end_of_the_processes():
    yield
    close_local_processes()


def rows(count: int, seed: int = 0) -> MemoryDataset:
    made = make_rows(count, seed)
    made.images = nn.functional.interpolate(made.images, size=IMAGE_SIZE).expand(-1, 3, -1, -1).contiguous()
    return made


def trainer(
    devices: int, *, unit: str = "sample", noise: float = 0.0, seed: int = 0, adapters: bool = False, **config: object
) -> Trainer:
    text = TextConfig(
        tokenizer="byte", vocabulary_size=260, max_tokens=16, hidden_size=16, layers=1, heads=2, feed_forward_size=32,
        max_positions=32, dropout=noise, trainable_blocks=0 if adapters else None,
    )  # fmt: skip
    model = MedVLMoEConfig(
        name="test",
        vision=VisionConfig(
            backbone="test_vit", image_size=IMAGE_SIZE, lora=LoRAConfig(rank=2 * adapters, targets=["qkv"])
        ),
        text=text,
        fusion=FusionConfig(dim=16, residual=True, max_text_positions=16),
        moe=MoEConfig(experts=6, top_k=2, unit=unit, router_noise=noise, balance_alpha=1.0),
    )
    values: dict = {
        "batch_size": 8, "precision": "float32", "warmup_epochs": 1, "bootstrap_resamples": 20, "weight_decay": 0.5,
        # Small: where a gradient is 0 but for rounding, AdamW makes a whole step of it, up or down.
        "encoder_learning_rate": 1e-6, "head_learning_rate": 1e-4,
    }  # fmt: skip
    built = build_model(model, len(MIXED), seed=0)
    return Trainer(built, TrainingConfig(**values | config), MIXED, seed=seed, devices=devices, total_epochs=3)


def pair(change: Callable[[nn.Module], object] = lambda model: None, **options: object) -> tuple[Trainer, Trainer]:
    """The same trainer with one process and with two; ``change`` is done to both models."""
    made = trainer(1, **options), trainer(2, **options)  # type: ignore[arg-type]
    for each in made:
        change(each.model)
    return made


def freeze_encoders(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("vision", "text")))


def send_all_to_two_experts(model: nn.Module) -> None:
    model.moe.router.weight.data.zero_()
    model.moe.router.weight.requires_grad_(False)


def state(each: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in (each.model.state_dict() | each.optimizer_tensors()).items()}


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=tolerance, rtol=0, msg=lambda text, name=name: name + text)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 3, "gradient_clip": 0.1},
        {"unit": "token", "ordinal": "earth_mover"},
        {"gradient_checkpointing": True, "accumulate": 2},
        {"change": freeze_encoders, "gradient_checkpointing": True},
        {"adapters": True, "accumulate": 2},
        {"workers": 1},
    ],
    ids=["plain", "accumulated and clipped", "tokens", "checkpointing", "frozen encoders", "adapters", "workers"],
)
def test_two_processes_are_one(options: dict) -> None:
    one, two = pair(**options)
    dataset = rows(31)  # batches of 8, 8, 8 and 7 rows: parts of unequal size
    results = [[each.train_epoch(dataset, epoch) for epoch in range(2)] for each in (one, two)]
    assert_close(state(one), state(two))
    assert torch.equal(one.model.routed_samples(), two.model.routed_samples())
    for ours, theirs in zip(*results, strict=True):
        assert theirs.mean_loss == pytest.approx(ours.mean_loss, abs=1e-5)
        assert theirs.mean_auxiliary_loss == pytest.approx(ours.mean_auxiliary_loss, abs=1e-6)
        assert torch.equal(theirs.observed_labels_Y, ours.observed_labels_Y)
        assert (theirs.samples, theirs.steps, theirs.skipped_steps) == (ours.samples, ours.steps, ours.skipped_steps)
    assert all(parameter.grad is None for parameter in two.model.parameters())


def test_experts_that_no_process_used_keep_every_byte() -> None:
    one, two = pair(send_all_to_two_experts)
    before = state(two)
    for each in (one, two):
        each.train_epoch(rows(24), 0)
    after, routed_K = state(two), two.model.routed_samples()
    assert (routed_K == 0).sum() == 4
    assert_close(state(one), after)  # of the idle ones neither has optimizer state
    for k, routed in enumerate(routed_K.tolist()):
        names = [name for name in before if name.startswith(f"moe.experts.{k}.")]
        assert all(torch.equal(before[name], after[name]) == (routed == 0) for name in names)


def test_an_expert_that_one_process_used_alone_learns_in_both() -> None:
    """Two rows that differ in their text, one row a process: each uses experts that the other does not."""
    dataset = rows(2)
    dataset.tokens[0], dataset.tokens[1] = 1, 7
    one, two = pair(lambda model: model.moe.router.weight.data.mul_(100), batch_size=2)
    for each in (one, two):
        for epoch in range(3):
            each.train_epoch(dataset, epoch)
    assert one.model.routed_samples().count_nonzero() > 2
    assert_close(state(one), state(two))


def test_fewer_rows_than_processes() -> None:
    one, two = pair(batch_size=2)
    dataset = rows(1)
    results = [each.train_epoch(dataset, 0) for each in (one, two)]
    assert_close(state(one), state(two))
    assert torch.equal(one.model.routed_samples(), two.model.routed_samples())
    assert results[0].mean_loss == pytest.approx(results[1].mean_loss, abs=1e-6)
    assert torch.equal(results[0].observed_labels_Y, results[1].observed_labels_Y)


@pytest.mark.parametrize("count", [0, 5, 23])
def test_predictions_are_those_of_one_process(count: int) -> None:
    one, two = pair(precision="bfloat16")
    dataset = rows(count)
    assert torch.equal(one.predict(dataset), two.predict(dataset))
    assert one.evaluate(dataset) == two.evaluate(dataset)


def test_the_model_is_that_of_the_call_not_of_the_start() -> None:
    """Parameters that change between the calls, as a server's do, and a model of another shape."""
    two, dataset = trainer(2), rows(23)
    before = two.predict(dataset)
    with torch.no_grad():
        two.model.head.bias += 1.0
    assert not torch.equal(before, two.predict(dataset))
    tokens = pair(unit="token")
    assert torch.equal(tokens[0].predict(dataset), tokens[1].predict(dataset))


def test_dropout_and_noise_are_repeatable() -> None:
    states = []
    for _ in range(2):
        two = trainer(2, noise=0.3)
        two.train_epoch(rows(24), 0)
        assert two.model.routed_samples().sum() == 2 * 24
        states.append(state(two))
    assert equal(*states)


def test_fit_resumes_bit_for_bit(tmp_path: Path) -> None:
    train, validation = rows(24), rows(20, seed=1)
    whole, first, second = (trainer(2) for _ in range(3))
    result = whole.fit(train, validation)
    assert len(result.history) == 3
    first.fit(train, validation, epochs=2, checkpoint_folder=tmp_path)
    second.fit(train, validation, checkpoint_folder=tmp_path, resume=True)
    assert equal(state(whole), state(second))


def with_a_bad_row(*, in_process: int) -> tuple[MemoryDataset, int]:
    """Two batches, in one of them a row without end in the part of that process; and the seed that puts it there."""
    dataset, bad = rows(16), 0
    dataset.images[bad] = torch.inf
    for seed in range(20):
        place = [row for batch in shuffled_batches(16, 8, seed, 0) for row in batch].index(bad) % 8
        if (place >= 4) == bool(in_process):
            return dataset, seed
    raise AssertionError


@pytest.mark.parametrize("in_process", [0, 1])
def test_loss_scaling_leaves_a_step_out_in_all_processes_or_none(in_process: int) -> None:
    """The CUDA path with only the device replaced: float16 and loss scaling on the CPU."""
    dataset, seed = with_a_bad_row(in_process=in_process)
    one, two = pair(seed=seed)
    for each in (one, two):
        each.precision = Precision("float16", "cpu")
        result = each.train_epoch(dataset, 0)
        assert (result.steps, result.skipped_steps) == (2, 1)
        assert float(each.precision.tensors()["scaler/scale"]) == 2.0**15
        each.train_epoch(rows(16), 1)  # the others go on with the same scale
    assert_close(dict(one.model.state_dict()), dict(two.model.state_dict()), tolerance=2e-3)


@pytest.mark.parametrize("in_process", [0, 1])
def test_a_loss_that_is_not_finite_is_the_same_error_from_either_process(in_process: int) -> None:
    dataset, seed = with_a_bad_row(in_process=in_process)
    with pytest.raises(
        ConfigError, match=r"^the loss became not finite at epoch 0, step [01]; lower the learning rate"
    ):
        trainer(2, seed=seed).train_epoch(dataset, 0)


def test_parts_of_a_batch_balance_as_the_whole() -> None:
    """sum_k f_k p_k of a batch is the weighted sum over its parts once they know the batch's f_k."""
    torch.manual_seed(0)
    experts = SparseMoE(8, MoEConfig(experts=4, top_k=2, balance_alpha=1.0))
    fused_NF = torch.randn(10, 8)
    _, whole, routing = experts(fused_NF)
    counts_K = torch.bincount(routing.expert_index_BJ.flatten(), minlength=4)
    assert torch.allclose(whole, balance_sum(routing.probabilities_BK, counts_K))
    experts.routed_samples_K.zero_()
    experts.sum_counts = lambda part_K: counts_K
    parts = [experts(part)[1] * len(part) / 10 for part in fused_NF.split([7, 3])]
    torch.testing.assert_close(sum(parts), whole)
    assert torch.equal(experts.routed_samples_K, 2 * counts_K)  # each part counts the whole batch, as each process does


def test_which_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert resolve_devices("cpu", 1) == resolve_devices("cpu", "all") == resolve_devices("auto", "1") == [cpu]
    assert resolve_devices("cpu", 3) == [cpu] * 3
    for wrong in (0, -1, "two", "", 1.5, True):
        with pytest.raises(ConfigError, match=f"devices={wrong}: use a whole number of at least 1, or all"):
            resolve_devices("cpu", wrong)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    gpus = [torch.device("cuda", index) for index in range(4)]
    assert resolve_devices("auto", "all") == resolve_devices("cuda", 4) == gpus
    assert resolve_devices("auto", 2) == gpus[:2]
    assert resolve_devices("cuda:3", 1) == [gpus[3]]
    with pytest.raises(ConfigError, match="devices=5: there are 4 GPUs"):
        resolve_devices("cuda", 5)
    with pytest.raises(ConfigError, match="device=cuda:1 is one GPU"):
        resolve_devices("cuda:1", 2)


def test_a_batch_has_a_row_for_every_device() -> None:
    with pytest.raises(ConfigError, match=r"training.batch_size=3 has fewer rows than there are devices \(4\)"):
        trainer(4, batch_size=3)
