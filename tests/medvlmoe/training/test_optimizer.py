import weakref
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.training import TrainingConfig
from medvlmoe.training.optimizer import (
    build_optimizer,
    is_decayed,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)

CONFIG = TrainingConfig(encoder_learning_rate=0.25, head_learning_rate=0.5, weight_decay=0.1)


def settings_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_every_parameter_has_the_rate_and_decay_of_its_kind(make_model) -> None:
    model = make_model()
    found = settings_of(model, build_optimizer(model, CONFIG))
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        rate = 0.25 if name.startswith(("vision.", "text.")) else 0.5
        assert found[name] == (rate, 0.0 if parameter.ndim == 1 else 0.1)


@pytest.mark.parametrize(
    ("name", "shape", "decayed"),
    [
        ("vision.encoder.pos_embed", (1, 5, 8), False),
        ("vision.encoder.cls_token", (1, 1, 8), False),
        ("text.encoder.embed_positions.weight", (9, 8), False),
        ("fusion.image_positions.weight", (9, 8), False),
        ("text.encoder.embed_tokens.weight", (9, 8), True),
        ("fusion.image_projection.weight", (8, 8), True),
        ("head.bias", (8,), False),
    ],
)
def test_positions_class_tokens_and_vectors_do_not_decay(name: str, shape: tuple[int, ...], decayed: bool) -> None:
    assert is_decayed(name, torch.zeros(shape)) is decayed


def test_frozen_parameters_are_left_out(make_model) -> None:
    model = make_model()
    model.vision.requires_grad_(False)
    assert not any(name.startswith("vision") for name in settings_of(model, build_optimizer(model, CONFIG)))
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build_optimizer(model.requires_grad_(False), CONFIG)


def test_the_rate_is_a_share_of_each_groups_peak(make_model) -> None:
    model = make_model()
    optimizer = build_optimizer(model, CONFIG)
    set_learning_rate(optimizer, 0.5)
    set_learning_rate(optimizer, 0.1)
    assert {rate for rate, _ in settings_of(model, optimizer).values()} == {0.025, 0.05}


def test_a_step_is_that_of_adamw(make_model) -> None:
    model, twin = make_model(), make_model()
    ours = build_optimizer(model, CONFIG)
    theirs = torch.optim.AdamW([twin.head.weight], lr=0.5, weight_decay=0.1, foreach=False, fused=False)
    for seed in range(3):
        gradient = torch.randn(model.head.weight.shape, generator=torch.Generator().manual_seed(seed))
        model.head.weight.grad, twin.head.weight.grad = gradient, gradient.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(model.head.weight, twin.head.weight)


def test_a_parameter_without_gradient_is_neither_moved_nor_decayed_nor_stored(make_model) -> None:
    model, twin = make_model(), make_model()
    optimizer = build_optimizer(model, CONFIG)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    optimizer.step()
    assert {name.partition("/")[2] for name in optimizer_tensors(model, optimizer)} == {"head.weight"}
    changed = {
        name for name, parameter in model.named_parameters() if not torch.equal(parameter, twin.get_parameter(name))
    }
    assert changed == {"head.weight"}


def test_state_is_copied_in_and_replaces_the_old_one(make_model) -> None:
    model = make_model()
    optimizer = build_optimizer(model, CONFIG)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    optimizer.step()
    stored = {name: tensor.clone() for name, tensor in optimizer_tensors(model, optimizer).items()}
    kept = {name: tensor.clone() for name, tensor in stored.items()}
    model.head.bias.grad = torch.ones_like(model.head.bias)
    optimizer.step()
    load_optimizer_tensors(model, optimizer, stored)
    loaded = optimizer_tensors(model, optimizer)
    assert loaded.keys() == kept.keys()
    assert all(torch.equal(loaded[name], kept[name]) for name in kept)
    optimizer.step()
    assert all(torch.equal(stored[name], kept[name]) for name in kept)
    load_optimizer_tensors(model, optimizer, {})
    assert not optimizer_tensors(model, optimizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("step/head.bias"), "no 'step/head.bias'"),
        (lambda state: state.update({"exp_avg/head.bias": torch.zeros(99)}), "shape"),
        (lambda state: state.update({"exp_avg/other.weight": torch.zeros(1)}), "other.weight"),
        (lambda state: state.update({"momentum/head.bias": torch.zeros(1)}), "momentum/head.bias"),
    ],
)
def test_a_state_of_another_model_is_refused_and_the_old_one_kept(make_model, change, message: str) -> None:
    model = make_model()
    optimizer = build_optimizer(model, CONFIG)
    model.head.bias.grad = torch.ones_like(model.head.bias)
    optimizer.step()
    before = optimizer_tensors(model, optimizer)
    state = dict(before)
    change(state)
    with pytest.raises(CheckpointError, match=message):
        load_optimizer_tensors(model, optimizer, state)
    assert optimizer_tensors(model, optimizer).keys() == before.keys()


class Watched(Mapping[str, torch.Tensor]):
    """Gives copies, and remembers how many of them were alive at once."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors, self.given, self.most = tensors, weakref.WeakSet(), 0

    def __getitem__(self, name: str) -> torch.Tensor:
        given = self.tensors[name].clone()
        self.given.add(given)
        self.most = max(self.most, len(self.given))
        return given

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_state_is_loaded_one_tensor_at_a_time(make_trainer, make_dataset) -> None:
    """The state is twice the model: a second copy of it would not fit where the first just does."""
    first, second = make_trainer(), make_trainer()
    first.train_epoch(make_dataset(16), 0)
    watched = Watched(first.optimizer_tensors())
    second.load_optimizer_tensors(watched)
    assert watched.most <= 2
    assert all(torch.equal(tensor, watched.tensors[name]) for name, tensor in second.optimizer_tensors().items())
