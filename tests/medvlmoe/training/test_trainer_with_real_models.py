"""The trainer with the real model and the yardstick, on random images."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medvlmoe.data.labels import LabelSpace
from medvlmoe.model import (
    FusionConfig,
    MedVLMoEConfig,
    MoEConfig,
    TextConfig,
    VisionConfig,
    build_image_classifier,
    build_model,
)
from medvlmoe.training import Trainer, TrainingConfig
from medvlmoe.training.optimizer import is_decayed

IMAGE_SIZE = 32


def medvlmoe(label_count: int, backbone: str = "test_resnet") -> nn.Module:
    text = TextConfig(
        tokenizer="byte", vocabulary_size=260, max_tokens=16, hidden_size=16, layers=1, heads=2, feed_forward_size=32,
        max_positions=32,
    )  # fmt: skip
    config = MedVLMoEConfig(
        name="test",
        vision=VisionConfig(backbone=backbone, image_size=IMAGE_SIZE),
        text=text,
        fusion=FusionConfig(dim=16, residual=True, max_text_positions=16),
        moe=MoEConfig(experts=6, top_k=2),
    )
    return build_model(config, label_count, seed=0)


def yardstick(label_count: int) -> nn.Module:
    return build_image_classifier("test_resnet", label_count, seed=0)


MODELS = [pytest.param(medvlmoe, id="medvlmoe"), pytest.param(yardstick, id="yardstick")]


@pytest.fixture(scope="module")
def dataset(make_dataset):
    rows = make_dataset(20)
    rows.images = torch.nn.functional.interpolate(rows.images, size=IMAGE_SIZE).expand(-1, 3, -1, -1)
    return rows


def trainer_of(
    build: Callable[[int], nn.Module], space: LabelSpace, total_epochs: int = 3, **config: object
) -> Trainer:
    values: dict = {
        "batch_size": 8, "precision": "float32", "warmup_epochs": 1, "head_learning_rate": 1e-3,
        "bootstrap_resamples": 0,
    }  # fmt: skip
    return Trainer(build(len(space)), TrainingConfig(**values | config), space, seed=0, total_epochs=total_epochs)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_new_trainer_every_epoch_changes_no_bit(
    build: Callable[[int], nn.Module], precision: str, label_space: LabelSpace, dataset
) -> None:
    whole = trainer_of(build, label_space, precision=precision)
    for epoch in range(3):
        whole.train_epoch(dataset, epoch)
    model, state = build(len(label_space)).state_dict(), {}
    for epoch in range(3):
        part = trainer_of(build, label_space, precision=precision)
        part.model.load_state_dict(model)
        part.load_optimizer_tensors(state)
        part.train_epoch(dataset, epoch)
        part.evaluate(dataset)
        model, state = weights(part), {name: tensor.clone() for name, tensor in part.optimizer_tensors().items()}
    assert equal(model, weights(whole))
    assert equal(state, whole.optimizer_tensors())


def test_fit_resumes_bit_for_bit(label_space: LabelSpace, dataset, tmp_path: Path) -> None:
    whole, first, second = (trainer_of(medvlmoe, label_space, precision="bfloat16") for _ in range(3))
    whole.fit(dataset, dataset)
    first.fit(dataset, dataset, epochs=2, checkpoint_folder=tmp_path)
    second.fit(dataset, dataset, checkpoint_folder=tmp_path, resume=True)
    assert equal(weights(second), weights(whole))


def test_experts_that_no_sample_chose_keep_every_byte(label_space: LabelSpace, dataset) -> None:
    trainer = trainer_of(medvlmoe, label_space, weight_decay=0.5)
    # All samples agree on two experts: the others are idle.
    trainer.model.moe.router.weight.data.zero_()
    before = weights(trainer)
    trainer.model.moe.router.weight.requires_grad_(False)
    trainer.train_epoch(dataset, 0)
    routed_K = trainer.model.routed_samples()
    after, stored = weights(trainer), trainer.optimizer_tensors()
    assert (routed_K == 0).sum() == 4
    for k, routed in enumerate(routed_K.tolist()):
        names = [name for name in before if name.startswith(f"moe.experts.{k}.")]
        assert all(torch.equal(before[name], after[name]) == (routed == 0) for name in names)
        assert all((f"exp_avg/{name}" in stored) == (routed > 0) for name in names)


def test_routed_samples_are_counted_in_training_only(label_space: LabelSpace, dataset) -> None:
    trainer = trainer_of(medvlmoe, label_space)
    trainer.evaluate(dataset)
    assert trainer.model.routed_samples().sum() == 0
    trainer.train_epoch(dataset, 0)
    assert trainer.model.routed_samples().sum() == 2 * len(dataset)


@pytest.mark.parametrize("backbone", ["test_resnet", "vit_tiny_patch16_224"])
def test_what_decays_in_the_real_model(backbone: str) -> None:
    kept = {
        name
        for name, parameter in medvlmoe(3, backbone).named_parameters()
        if not is_decayed(name, parameter) and parameter.ndim > 1
    }
    assert {name for name in kept if name.startswith("fusion")} == {
        name for name, _ in medvlmoe(3, backbone).named_parameters() if "position" in name and name.startswith("fusion")
    }
    assert any(name.startswith("text") and "position" in name for name in kept)
    assert any(name.endswith("pos_embed") for name in kept) == backbone.startswith("vit")
    assert all("position" in name or name.endswith(("pos_embed", "cls_token")) for name in kept)


def test_gradient_checkpointing_changes_memory_not_results(label_space: LabelSpace, dataset) -> None:
    plain, saving = (
        trainer_of(lambda labels: medvlmoe(labels, "vit_tiny_patch16_224"), label_space, gradient_checkpointing=saving)
        for saving in (False, True)
    )
    losses = [trainer.train_epoch(dataset, 0).mean_loss for trainer in (plain, saving)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
