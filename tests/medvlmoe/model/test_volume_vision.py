import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from medvlmoe.configuration import compose
from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.model import (
    FusionConfig,
    MedVLMoEConfig,
    MoEConfig,
    TextConfig,
    VisionConfig,
    build_model,
    image_normalisation,
)
from medvlmoe.model.config import VolumeConfig
from medvlmoe.model.groups import parameter_group
from medvlmoe.model.vision import VisionEncoder, create_backbone
from strategies.run_config import RunConfig

SIZES = VolumeConfig(patch_size=4, patch_depth=2, width=16, layers=2, heads=2)
VISION = VisionConfig(backbone="vit3d", image_size=12, depth=8, channels=1, volume=SIZES)
MODEL = MedVLMoEConfig(
    vision=VISION,
    text=TextConfig(tokenizer="byte", max_tokens=16, vocabulary_size=260, hidden_size=16, layers=1, heads=2,
                    feed_forward_size=16, max_positions=16),
    fusion=FusionConfig(dim=8, max_text_positions=16),
    moe=MoEConfig(experts=2, top_k=1),
)  # fmt: skip


def encoder(**changes):
    torch.manual_seed(0)
    return VisionEncoder(dataclasses.replace(VISION, **changes))


def test_tokens_of_a_volume():
    made = encoder()
    assert (made.token_count, made.width) == (1 + 4 * 3 * 3, 16)
    assert made(torch.randn(2, 1, 8, 12, 12)).shape == (2, 37, 16)


def test_a_token_is_a_linear_map_of_its_block():
    """The convolution equals cutting the volume into blocks by hand and multiplying each with one matrix."""
    backbone = encoder().backbone
    volume = torch.randn(1, 1, 8, 12, 12)
    blocks = volume[0, 0].reshape(4, 2, 3, 4, 3, 4).permute(0, 2, 4, 1, 3, 5).reshape(36, 32)
    expected = blocks @ backbone.patch_embed.weight.reshape(16, 32).T + backbone.patch_embed.bias
    torch.testing.assert_close(backbone.patch_embed(volume).flatten(2).transpose(1, 2)[0], expected)


def test_positions_tell_blocks_apart():
    made = encoder().eval()
    with torch.no_grad():
        for block in made.backbone.blocks:
            block.attn.proj.weight.zero_()  # without attention a token's state is its own alone
        volume = torch.randn(1, 1, 8, 12, 12)
        moved = torch.roll(volume, (2, 4, 4), dims=(2, 3, 4))
        made.backbone.position.weight.zero_()
        states, after = made(volume)[0, 1:].reshape(4, 3, 3, 16), made(moved)[0, 1:].reshape(4, 3, 3, 16)
        torch.testing.assert_close(torch.roll(states, (1, 1, 1), dims=(0, 1, 2)), after)
        made.backbone.position.weight.normal_()
        assert not torch.allclose(torch.roll(made(volume)[0, 1:], 13, dims=0), made(moved)[0, 1:], atol=1e-2)


def test_the_class_token_sees_every_block():
    made = encoder()
    volume = torch.randn(1, 1, 8, 12, 12, requires_grad=True)
    made(volume)[0, 0].square().sum().backward()
    blocks = volume.grad[0, 0].reshape(4, 2, 3, 4, 3, 4).abs().sum(dim=(1, 3, 5))
    assert (blocks > 0).all()


def test_every_learned_tensor_lies_in_a_leaf_module():
    for name, module in encoder().named_modules():
        if list(module.children()):
            assert not list(module.parameters(recurse=False)), name


def test_groups_gradients_and_checkpointing():
    model = build_model(MODEL, 3, seed=0)
    assert {parameter_group(name) for name, _ in model.named_parameters()} == {
        "vision", "text", "fusion", "router", "expert.0", "expert.1", "head",
    }  # fmt: skip
    image, ids = torch.randn(4, 1, 8, 12, 12), torch.randint(4, 200, (4, 6))

    def gradients(enabled):
        model.zero_grad()
        model.set_gradient_checkpointing(enabled)
        model(image, ids, torch.ones_like(ids)).logits_BY.square().sum().backward()
        return {name: parameter.grad.clone() for name, parameter in model.vision.named_parameters()}

    model.eval()
    for (name, plain), again in zip(gradients(False).items(), gradients(True).values(), strict=True):
        assert plain.abs().sum() > 0, name
        torch.testing.assert_close(plain, again, msg=name)


def test_one_channel_is_normalised():
    assert image_normalisation(VISION) == ((0.5,), (0.5,))


def test_weights_are_a_local_file_or_none(tmp_path):
    made = create_backbone(VISION)
    save_file(made.state_dict(), tmp_path / "w.safetensors")
    again = create_backbone(dataclasses.replace(VISION, weights=str(tmp_path / "w.safetensors")))
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(CheckpointError, match="weights=openai: vit3d has no published weights"):
        create_backbone(dataclasses.replace(VISION, weights="openai"))


def test_drop_path_rises_over_the_layers():
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in create_backbone(dataclasses.replace(
        VISION, drop_path=0.3, volume=dataclasses.replace(SIZES, layers=4))).blocks]  # fmt: skip
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.vision.depth=8"], "model.vision.depth=8: resnet18 reads flat images; choose model.vision=vit3d"),
        (["model.vision.backbone=vit3d"], "set model.vision.depth"),
        (
            ["model.vision=vit3d", "model.vision.depth=7"],
            "depth=7 is not a multiple of .*patch_depth=4",
        ),
        (["model.vision=vit3d", "model.vision.image_size=20"], "image_size=20 is not a multiple"),
        (["model.vision=vit3d", "model.vision.depth=0"], "model.vision.depth=0: use 1 or more"),
        (["model.vision=vit3d", "model.vision.output_stride=8"], "output_stride=8: vit3d has none"),
        (["model.vision=vit3d", "model.vision.volume.width=10"], "heads=4 does not divide width=10"),
        (["model.vision=vit4d"], "no model/vision 'vit4d'; there are vit3d"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose(RunConfig, overrides)


@pytest.mark.parametrize("model", ["tiny", "small", "paper"])
def test_the_encoder_is_chosen_in_any_model(model):
    chosen = compose(RunConfig, [f"model={model}", "model.vision=vit3d", "model.vision.depth=32"]).model
    assert (chosen.vision.backbone, chosen.vision.depth, chosen.vision.channels) == ("vit3d", 32, 1)
    assert chosen.text == compose(RunConfig, [f"model={model}"]).model.text
    assert chosen == compose(RunConfig, [f"model={model}", "model/vision=vit3d", "model.vision.depth=32"]).model


def test_every_size_has_its_effect():
    def shapes(**changes):
        return {n: p.shape for n, p in create_backbone(
            dataclasses.replace(VISION, volume=dataclasses.replace(SIZES, **changes))).named_parameters()}  # fmt: skip

    for changes in ({"patch_size": 6}, {"patch_depth": 4}, {"width": 32}, {"layers": 3}):
        assert shapes(**changes) != shapes()
    four = create_backbone(dataclasses.replace(VISION, volume=dataclasses.replace(SIZES, heads=4)))
    assert four.blocks[0].attn.num_heads == 4


def test_the_last_blocks_can_learn_alone():
    made = encoder(trainable_blocks=1)
    learns = {name.removeprefix("backbone.") for name, tensor in made.named_parameters() if tensor.requires_grad}
    assert learns == {name for name, _ in made.backbone.named_parameters() if name.startswith(("blocks.1.", "norm."))}
