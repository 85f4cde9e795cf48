"""Grad-CAM against plain autograd, attention against the fusion's own forward pass."""

import pytest
import torch
from torch import Tensor

from medvlmoe.analysis.explain.maps import image_maps, token_grid
from medvlmoe.configuration import compose
from medvlmoe.model import MedVLMoE, build_model
from medvlmoe.model.fusion import CrossAttention
from strategies.run_config import RunConfig

LABEL = 2


def build(*overrides: str, seed: int = 0) -> MedVLMoE:
    config = compose(RunConfig, ["model=tiny", *overrides]).model
    return build_model(config, 5, seed).eval().requires_grad_(False)


def inputs(model: MedVLMoE, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vision = model.config.vision
    slices = () if vision.depth is None else (vision.depth,)
    image = torch.randn(1, vision.channels, *slices, vision.image_size, vision.image_size, generator=generator)
    return image, torch.randint(4, 200, (1, 9), generator=generator), torch.ones(1, 9, dtype=torch.int64)


def rest_of(model: MedVLMoE, tokens: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """The logits from the image tokens on."""
    fused = model.fusion(tokens, model.text(ids, mask), mask)
    return model.head(model.moe(fused.fused_BF)[0])


def test_grad_cam_of_a_convolutional_backbone_equals_plain_autograd():
    model = build()
    image, ids, mask = inputs(model)
    features = model.vision.backbone.forward_features(image).detach().requires_grad_(True)
    places = features.flatten(2).transpose(1, 2)
    logit = rest_of(model, torch.cat([places.mean(1, keepdim=True), places], 1), ids, mask)[0, LABEL]
    (gradient,) = torch.autograd.grad(logit, features)
    alpha = gradient[0].mean(dim=(1, 2))  # Grad-CAM, equation 1
    expected = (alpha[:, None, None] * features[0]).sum(0).relu().detach()  # equation 2
    assert expected.max() > 0
    torch.testing.assert_close(image_maps(model, image, ids, mask, LABEL).grad_cam, expected)


def test_grad_cam_of_a_transformer_equals_plain_autograd():
    model = build("model.vision.backbone=test_vit", "model.vision.output_stride=null", "model.vision.image_size=64")
    image, ids, mask = inputs(model)
    backbone = model.vision.backbone
    tokens = backbone.norm_pre(backbone.patch_drop(backbone._pos_embed(backbone.patch_embed(image))))
    for block in backbone.blocks[:-1]:
        tokens = block(tokens)
    last = backbone.blocks[-1]
    normed = last.norm1(tokens).detach().requires_grad_(True)
    tokens = tokens + last.drop_path1(last.ls1(last.attn(normed)))
    tokens = tokens + last.drop_path2(last.ls2(last.mlp(last.norm2(tokens))))
    (gradient,) = torch.autograd.grad(rest_of(model, backbone.norm(tokens), ids, mask)[0, LABEL], normed)
    expected = (normed[0, 1:] * gradient[0, 1:].mean(0)).sum(1).relu().detach().reshape(4, 4)
    assert expected.max() > 0
    torch.testing.assert_close(image_maps(model, image, ids, mask, LABEL).grad_cam, expected)


@pytest.mark.parametrize(
    ("overrides", "grid"),
    [
        ((), (4, 4)),
        (("model.vision.backbone=test_vit", "model.vision.output_stride=null", "model.vision.image_size=64"), (4, 4)),
        (("model.vision=vit3d", "model.vision.depth=8", "model.vision.image_size=24"), (2, 3, 3)),
    ],
    ids=["convolutional", "transformer", "volume"],
)
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_attention_is_what_the_text_attends_with(overrides, grid, pool):
    model = build(*overrides, f"model.text.pool={pool}")
    image, ids, mask = inputs(model)
    maps = image_maps(model, image, ids, mask, LABEL)
    assert maps.attention.shape == maps.grad_cam.shape == grid
    count = 1 + maps.attention.numel()
    weights = torch.cat([torch.tensor([maps.attention_elsewhere]), maps.attention.flatten() / count])
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    # Without residual, norm and gate the second half of the fused vector is the weights times the values, nothing else.
    plain = build(*overrides, f"model.text.pool={pool}", "model.fusion.residual=false",
                  "model.fusion.layer_norm=false", "model.fusion.gate=none")  # fmt: skip
    seen = []
    plain.fusion.cross_attention.register_forward_pre_hook(lambda module, given: seen.append(given))
    fused = plain.fusion(plain.vision(image), plain.text(ids, mask), mask).fused_BF[0]
    maps = image_maps(plain, image, ids, mask, LABEL)
    weights = torch.cat([torch.tensor([maps.attention_elsewhere]), maps.attention.flatten() / count])
    values = plain.fusion.cross_attention.attention.value(seen[0][0][0])
    torch.testing.assert_close(weights @ values, fused[len(fused) // 2 :], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("heads", "masked"), [(1, False), (2, True)])
def test_attention_weights_times_values_are_the_attended_values(heads, masked):
    torch.manual_seed(0)
    attention = CrossAttention(8, heads)
    asking, asked = torch.randn(3, 4, 8), torch.randn(3, 6, 8)
    mask = (torch.arange(6) < torch.tensor([[6], [3], [1]])).long() if masked else None
    weights = attention.weights(asking, asked, mask)
    values = attention.value(asked).unflatten(-1, (heads, -1)).transpose(1, 2)
    torch.testing.assert_close((weights @ values).transpose(1, 2).flatten(2), attention(asking, asked, mask))


def test_one_image_token_has_no_map_of_attention():
    model = build("model.fusion.tokens=cls")
    maps = image_maps(model, *inputs(model), LABEL)
    assert maps.attention is None and maps.attention_elsewhere is None
    assert maps.grad_cam.shape == (4, 4)


def test_routing_by_token_is_explained_too():
    model = build("model.moe.unit=token")
    assert image_maps(model, *inputs(model), LABEL).grad_cam.max() > 0


def test_frozen_encoders_and_adapters_are_explained_too():
    vit = ("model.vision.backbone=test_vit", "model.vision.output_stride=null", "model.vision.image_size=64")
    for more in (["model.vision.trainable_blocks=0"], ["model.vision.lora.rank=2"]):
        model = build(*vit, *more)
        assert image_maps(model, *inputs(model), LABEL).grad_cam.max() > 0


def test_nothing_of_the_model_is_changed():
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    once = image_maps(model, *inputs(model), LABEL)
    again = image_maps(model, *inputs(model), LABEL)
    torch.testing.assert_close(once.grad_cam, again.grad_cam, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_places_that_form_no_square_are_a_row():
    assert token_grid(build(), 7) == (1, 7)
