"""Properties of the whole model, on a model small enough for milliseconds."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from medvlmoe.model import (
    FusionConfig,
    MedVLMoE,
    MedVLMoEConfig,
    MedVLMoEOutput,
    MoEConfig,
    TextConfig,
    VisionConfig,
    build_image_classifier,
    build_model,
)

LABELS = 3
TEXT = TextConfig(
    tokenizer="byte",
    vocabulary_size=260,
    hidden_size=16,
    layers=2,
    heads=2,
    feed_forward_size=32,
    max_positions=64,
    max_tokens=16,
    dropout=0.0,
)
CONFIG = MedVLMoEConfig(
    name="test",
    vision=VisionConfig(backbone="test_vit", image_size=32),
    text=TEXT,
    fusion=FusionConfig(dim=16, max_text_positions=32),
    moe=MoEConfig(experts=4),
)
CONVOLUTION = replace(CONFIG, vision=VisionConfig(backbone="test_resnet", image_size=64))


def batch(size: int = 32, count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 260, (count, 9), generator=generator)
    ids[:, 0] = 2
    lengths = torch.tensor([9, 6, 3, 1]).repeat(-(-count // 4))[:count]
    mask = (torch.arange(9) < lengths.unsqueeze(1)).long()
    return torch.randn(count, 3, size, size, generator=generator), ids * mask + (1 - mask), mask


OPTIONS = [
    CONFIG,
    CONVOLUTION,
    replace(CONFIG, fusion=FusionConfig(dim=16, tokens="cls")),
    replace(CONFIG, fusion=FusionConfig(dim=16, residual=True, heads=4, projections="separate", gate="vector")),
    replace(CONFIG, fusion=FusionConfig(dim=16, gate="none", layer_norm=False, output_projection=True)),
    replace(CONFIG, moe=MoEConfig(experts=4, unit="token", residual=True, balance_scale="switch")),
    replace(CONFIG, moe=MoEConfig(experts=4, top_k=1, renormalise=False, hidden_size=8)),
    replace(CONFIG, text=replace(TEXT, pool="last")),
]


@pytest.mark.parametrize("config", OPTIONS)
def test_every_reading_trains(config: MedVLMoEConfig) -> None:
    model = build_model(config, LABELS, seed=0)
    image, ids, mask = batch(config.vision.image_size)
    output = model(image, ids, mask)
    assert output.logits_BY.shape == (4, LABELS)
    assert output.gate_B2 is not None
    assert output.gate_B2.shape == (4, 2)
    (output.logits_BY.square().sum() + output.auxiliary_loss).backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    counts = model.routed_samples()
    allowed = tuple(f"moe.experts.{k}." for k in range(4) if counts[k] == 0)
    assert all(name.startswith(allowed) for name in idle)


@pytest.mark.parametrize("config", OPTIONS)
def test_padding_never_changes_the_output(config: MedVLMoEConfig) -> None:
    model = build_model(config, LABELS, seed=0).eval()
    image, ids, mask = batch(config.vision.image_size)
    expected = model(image, ids, mask)
    generator = torch.Generator().manual_seed(1)
    for extra in (0, 4):
        longer_mask = torch.cat([mask, mask.new_zeros(4, extra)], dim=1)
        noise = torch.randint(4, 260, longer_mask.shape, generator=generator)
        longer_ids = torch.where(longer_mask.bool(), torch.cat([ids, ids.new_zeros(4, extra)], dim=1), noise)
        torch.testing.assert_close(model(image, longer_ids, longer_mask).logits_BY, expected.logits_BY)


def test_padding_left_over_in_a_batch_does_not_matter() -> None:
    """A short text beside a long one gives what it gives alone."""
    model = build_model(CONVOLUTION, LABELS, seed=0)
    image, ids, mask = batch(64)
    together = model(image, ids, mask).logits_BY
    for row in range(4):
        alone = model(
            image[row : row + 1], ids[row : row + 1, : mask[row].sum()], mask[row : row + 1, : mask[row].sum()]
        )
        torch.testing.assert_close(alone.logits_BY, together[row : row + 1], rtol=1e-4, atol=1e-5)


def test_image_and_text_both_matter() -> None:
    model = build_model(CONFIG, LABELS, seed=0).eval()
    image, ids, mask = batch()
    expected = model(image, ids, mask).logits_BY
    assert not torch.allclose(model(image + 1, ids, mask).logits_BY, expected)
    other = ids.clone()
    other[0, 4] += 1 if other[0, 4] < 259 else -1
    assert not torch.equal(model(image, other, mask).logits_BY[0], expected[0])


@pytest.mark.parametrize("config", [CONFIG, CONVOLUTION])
def test_gradient_checkpointing_gives_equal_gradients(config: MedVLMoEConfig) -> None:
    config = replace(config, text=replace(TEXT, dropout=0.1))
    image, ids, mask = batch(config.vision.image_size)
    gradients = []
    for enabled in (False, True):
        model = build_model(config, LABELS, seed=0)
        model.set_gradient_checkpointing(enabled)
        torch.manual_seed(7)
        output = model(image, ids, mask)
        (output.logits_BY.sum() + output.auxiliary_loss).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_checkpointing_is_used_and_can_be_switched_off() -> None:

    model = build_model(CONFIG, LABELS, seed=0)
    model.set_gradient_checkpointing(True)
    assert model.vision.backbone.grad_checkpointing
    assert all(layer.gradient_checkpointing for layer in model.text.model.layers)
    model.set_gradient_checkpointing(False)
    assert not model.vision.backbone.grad_checkpointing
    assert not any(layer.gradient_checkpointing for layer in model.text.model.layers)


def test_bfloat16_autocast_trains_and_keeps_the_router_in_float32() -> None:
    model = build_model(CONVOLUTION, LABELS, seed=0)
    image, ids, mask = batch(64)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(image, ids, mask)
    assert output.logits_BY.dtype == torch.bfloat16
    assert output.routing is not None
    assert output.routing.probabilities_BK.dtype == torch.float32
    assert output.auxiliary_loss.dtype == torch.float32
    (output.logits_BY.float().sum() + output.auxiliary_loss).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_routed_samples_are_counted_and_reset() -> None:
    model = build_model(CONFIG, LABELS, seed=0)
    model(*batch())
    assert model.routed_samples().sum() == 4 * CONFIG.moe.top_k
    model.reset_routed_samples()
    assert model.routed_samples().tolist() == [0] * 4


def test_token_routing_routes_every_image_token() -> None:
    model = build_model(replace(CONFIG, moe=MoEConfig(experts=4, unit="token")), LABELS, seed=0)
    output = model(*batch())
    assert output.routing is not None
    assert output.routing.expert_index_BJ.shape == (4 * model.vision.token_count, 2)
    assert model.routed_samples().sum() == 4 * model.vision.token_count * 2


def test_initial_weights_depend_on_the_seed_and_nothing_else() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = build_model(CONVOLUTION, LABELS, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    second, other = (build_model(CONVOLUTION, LABELS, seed=seed) for seed in (5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)


def test_no_parameter_of_ours_hides_from_per_sample_gradients() -> None:
    """Our modules with children own no parameter themselves, and the leaves are ordinary layers."""
    hookable = (nn.Linear, nn.Conv2d, nn.Embedding, nn.LayerNorm, nn.GroupNorm)
    model = build_model(CONVOLUTION, LABELS, seed=0)
    owners = [module for module in model.modules() if list(module.parameters(recurse=False))]
    assert all(isinstance(module, hookable) for module in owners)


def test_yardstick_has_the_same_call_and_ignores_the_text() -> None:
    model = build_image_classifier("test_resnet", LABELS, seed=0).eval()
    image, ids, mask = batch(64)
    output = model(image, ids, mask)
    assert isinstance(output, MedVLMoEOutput)
    assert output.logits_BY.shape == (4, LABELS)
    assert output.auxiliary_loss.item() == 0
    assert output.routing is None
    assert torch.equal(model(image, ids + 1, mask).logits_BY, output.logits_BY)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_state_travels_between_models() -> None:
    one, other = (build_model(CONFIG, LABELS, seed=seed).eval() for seed in (0, 1))
    other.load_state_dict(one.state_dict())
    inputs = batch()
    assert torch.equal(one(*inputs).logits_BY, other(*inputs).logits_BY)
    assert isinstance(one, MedVLMoE)
