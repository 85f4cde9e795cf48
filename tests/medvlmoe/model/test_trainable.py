"""Frozen, partly frozen and adapted encoders."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from medvlmoe.errors import ConfigError
from medvlmoe.model import (
    FusionConfig,
    LoRAConfig,
    MedVLMoE,
    MedVLMoEConfig,
    MoEConfig,
    TextConfig,
    VisionConfig,
    build_model,
)
from medvlmoe.model.groups import parameter_group
from medvlmoe.training.config import TrainingConfig
from medvlmoe.training.optimizer import build_optimizer, optimizer_tensors

TEXT = TextConfig(tokenizer="byte", vocabulary_size=260, hidden_size=16, layers=3, heads=2, feed_forward_size=32,
                  max_positions=64, max_tokens=16)  # fmt: skip
CONFIG = MedVLMoEConfig(
    vision=VisionConfig(backbone="test_vit", image_size=32), text=TEXT, fusion=FusionConfig(dim=16),
    moe=MoEConfig(experts=4),
)  # fmt: skip


def with_blocks(vision: int | None, text: int | None) -> MedVLMoEConfig:
    return replace(
        CONFIG, vision=replace(CONFIG.vision, trainable_blocks=vision), text=replace(TEXT, trainable_blocks=text)
    )


def with_adapters(rank: int = 2, **more: Any) -> MedVLMoEConfig:
    return replace(
        CONFIG,
        vision=replace(CONFIG.vision, lora=LoRAConfig(rank=rank, targets=["qkv"], **more)),
        text=replace(TEXT, lora=LoRAConfig(rank=rank, targets=["q_proj", "v_proj"], **more)),
    )


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 260, (4, 9), generator=generator)
    return torch.randn(4, 3, 32, 32, generator=generator), ids, torch.ones_like(ids)


def learning(model: nn.Module, prefix: str = "") -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad and name.startswith(prefix)}


def step(model: MedVLMoE) -> dict[str, Tensor]:
    """Backward from a loss, then one optimizer step; the gradients."""
    torch.manual_seed(7)
    optimizer = build_optimizer(model, TrainingConfig())
    output = model(*batch())
    (output.logits_BY.square().sum() + output.auxiliary_loss).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    trained = {name.partition("/")[2] for name in optimizer_tensors(model, optimizer)}
    assert trained == gradients.keys()
    return gradients


def test_by_default_everything_learns() -> None:
    model = build_model(CONFIG, 3, seed=0)
    assert len(learning(model)) == len(list(model.parameters()))


def test_last_blocks_of_a_vision_transformer_and_of_biogpt() -> None:
    model = build_model(with_blocks(2, 1), 3, seed=0)
    depth = len(model.vision.backbone.blocks)
    assert {name.split(".")[3] for name in learning(model, "vision.backbone.blocks.")} == {
        str(depth - 2),
        str(depth - 1),
    }
    assert {name for name in learning(model, "vision.") if ".blocks." not in name} == {
        "vision.backbone.norm.weight", "vision.backbone.norm.bias",
    }  # fmt: skip
    assert {name.split(".")[3] for name in learning(model, "text.model.layers.")} == {"2"}
    assert {name for name in learning(model, "text.") if ".layers." not in name} == {
        "text.model.layer_norm.weight", "text.model.layer_norm.bias",
    }  # fmt: skip


def test_last_blocks_of_a_convolutional_backbone_and_of_volumes() -> None:
    resnet = replace(CONFIG, vision=VisionConfig(backbone="test_resnet", image_size=64, trainable_blocks=1))
    assert all(name.startswith("vision.backbone.layer4.") for name in learning(build_model(resnet, 3, 0), "vision."))
    volume = replace(CONFIG, vision=VisionConfig(backbone="vit3d", image_size=16, depth=8, trainable_blocks=1))
    assert {name.split(".")[2] for name in learning(build_model(volume, 3, 0), "vision.")} == {"blocks", "norm"}


@pytest.mark.parametrize("config", [with_blocks(0, 0), with_blocks(1, 2), with_adapters(), with_blocks(None, 0)])
def test_frozen_parts_have_no_gradient_no_optimizer_state_and_do_not_move(config: MedVLMoEConfig) -> None:
    model = build_model(config, 3, seed=0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained = step(model).keys()
    assert trained <= learning(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is (name not in trained) or "lora_A" in name, name
    assert {"fusion", "router", "head"} <= {parameter_group(name) for name in trained}


def test_a_frozen_encoder_keeps_no_activation() -> None:
    """Autograd saves nothing during its forward pass, without any no_grad."""
    model = build_model(with_blocks(0, 0), 3, seed=0)
    image, ids, mask = batch()
    saved: list[Tensor] = []
    with saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        assert not model.vision(image).requires_grad
        assert not model.text(ids, mask).requires_grad
        assert saved == []
        build_model(CONFIG, 3, seed=0).vision(image)
        assert saved


def test_frozen_modules_stay_in_evaluation_mode() -> None:
    config = with_blocks(1, 1)
    config = replace(config, vision=replace(config.vision, drop_path=0.5), text=replace(config.text, dropout=0.5))
    model = build_model(config, 3, seed=0).train()
    blocks, layers = model.vision.backbone.blocks, model.text.model.layers
    assert [block.training for block in blocks] == [False] * (len(blocks) - 1) + [True]
    assert not blocks[0].drop_path1.training
    assert blocks[-1].drop_path1.training
    assert [layer.training for layer in layers] == [False, False, True]
    frozen = build_model(replace(config, vision=replace(config.vision, trainable_blocks=0),
                                 text=replace(config.text, trainable_blocks=0)), 3, seed=0).train()  # fmt: skip
    image, ids, mask = batch()
    assert torch.equal(frozen.vision(image), frozen.vision(image))
    assert torch.equal(frozen.text(ids, mask), frozen.text(ids, mask))
    assert frozen.moe.training
    assert not any(module.training for module in model.eval().modules())


def test_batch_statistics_of_a_frozen_encoder_do_not_move() -> None:
    vision = VisionConfig(backbone="test_resnet", image_size=32, normalisation="batch", trainable_blocks=0)
    model = build_model(replace(CONFIG, vision=vision), 3, seed=0).train()
    before = {name: buffer.clone() for name, buffer in model.vision.named_buffers()}
    model(*batch())
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.vision.named_buffers())


@torch.no_grad()
def test_adapters_change_nothing_at_first_and_something_later() -> None:
    adapted, plain = build_model(with_adapters(), 3, seed=0).eval(), build_model(CONFIG, 3, seed=0).eval()
    values = {name.replace(".base_layer.", "."): p for name, p in adapted.named_parameters() if "lora_" not in name}
    plain.load_state_dict(values)
    assert torch.equal(adapted(*batch()).logits_BY, plain(*batch()).logits_BY)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.normal_()
    assert not torch.allclose(adapted(*batch()).logits_BY, plain(*batch()).logits_BY)


@torch.no_grad()
def test_an_adapter_computes_its_formula() -> None:
    layer = build_model(with_adapters(rank=3, alpha=6.0), 3, seed=0).eval().text.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight.normal_()
    x = torch.randn(5, 16)
    expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + 6.0 / 3 * (x @ a.T @ b.T)
    torch.testing.assert_close(layer(x), expected)


def test_adapters_learn_and_belong_to_their_encoders_group() -> None:
    model = build_model(with_adapters(), 3, seed=0)
    encoders = {name for name in learning(model) if parameter_group(name) in ("vision", "text")}
    assert all("lora_" in name for name in encoders)
    assert {parameter_group(name) for name in encoders} == {"vision", "text"}
    expected = len(model.vision.backbone.blocks) + 2 * TEXT.layers
    assert len([name for name in encoders if "lora_A" in name]) == expected
    gradients = step(model)
    assert all(name in gradients for name in encoders)
    assert any(bool(gradients[name].any()) for name in encoders if "lora_B" in name)


def test_adapters_start_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = build_model(with_adapters(), 3, seed=5)
    torch.manual_seed(2)
    same, other = build_model(with_adapters(), 3, seed=5), build_model(with_adapters(), 3, seed=6)
    name = "vision.backbone.blocks.0.attn.qkv.lora_A.default.weight"
    assert torch.equal(first.get_parameter(name), same.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))


def test_adapter_dropout_is_used() -> None:
    model = build_model(with_adapters(dropout=0.5), 3, seed=0)
    layer = model.vision.backbone.blocks[0].attn.qkv
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    x = torch.randn(3, layer.in_features)
    assert not torch.equal(layer(x), layer(x))
    model.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize(
    "config", [with_blocks(0, 0), with_blocks(1, 1), with_blocks(None, 0), with_adapters(dropout=0.2)]
)
def test_gradient_checkpointing_gives_equal_gradients(config: MedVLMoEConfig) -> None:
    found = []
    for enabled in (False, True):
        model = build_model(config, 3, seed=0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(1))
        model.set_gradient_checkpointing(enabled)
        found.append(step(model))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VisionConfig(trainable_blocks=-1), "trainable_blocks=-1"),
        (lambda: TextConfig(lora=LoRAConfig(rank=-2)), "model.text.lora.rank=-2"),
        (lambda: VisionConfig(trainable_blocks=2, lora=LoRAConfig(rank=2, targets=["qkv"])), "adapters freeze"),
        (lambda: VisionConfig(lora=LoRAConfig(rank=2)), "targets is empty"),
        (lambda: VisionConfig(lora=LoRAConfig(rank=2, targets=["qkv"], alpha=0.0)), "lora.alpha=0.0"),
        (lambda: TextConfig(lora=LoRAConfig(rank=2, targets=["q_proj"], dropout=1.0)), "lora.dropout=1.0"),
        (lambda: build_model(with_blocks(99, None), 3, 0), "trainable_blocks=99: the encoder has"),
        (lambda: build_model(with_blocks(None, 4), 3, 0), "model.text.trainable_blocks=4: the encoder has 3"),
        (lambda: build_model(replace(CONFIG, vision=replace(CONFIG.vision, lora=LoRAConfig(rank=2, targets=["q"]))),
                             3, 0), "model.vision.lora.targets"),
        (lambda: build_model(replace(CONFIG, text=replace(TEXT, lora=LoRAConfig(rank=2, targets=["q_proj", "kv"]))),
                             3, 0), "no layer 'kv'"),
        (lambda: build_model(replace(CONFIG, text=replace(TEXT, lora=LoRAConfig(rank=2, targets=["self_attn"]))),
                             3, 0), "no adapter fits"),
        (lambda: VisionConfig(mean=[0.5]), "go together"),
        (lambda: VisionConfig(mean=[0.5], std=[0.5]), "give 3 numbers"),
        (lambda: VisionConfig(mean=[0.5] * 3, std=[0.5, 0.0, 0.5]), "above 0"),
    ],
)  # fmt: skip
def test_contradictions_are_one_line(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
