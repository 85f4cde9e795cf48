import pytest
import torch
from safetensors.torch import save_file
from timm.layers import BatchNormAct2d
from torch import nn

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.model import VisionConfig, image_normalisation
from medvlmoe.model.normalisation import replace_batch_normalisation
from medvlmoe.model.vision import VisionEncoder, create_backbone


def make_encoder(**options: object) -> VisionEncoder:
    torch.manual_seed(0)
    return VisionEncoder(VisionConfig(**{"backbone": "test_resnet", "image_size": 32, **options}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backbone", "options", "tokens"),
    [
        ("test_vit", {"image_size": 32}, 1 + 4),
        ("test_resnet", {"image_size": 64}, 1 + 4),
        ("test_resnet", {"image_size": 32, "output_stride": 8}, 1 + 16),
        ("test_convnext", {"image_size": 64}, 1 + 4),
        ("swin_tiny_patch4_window7_224", {"image_size": 224}, 1 + 49),
        ("test_resnet", {"image_size": 64, "channels": 1}, 1 + 4),
    ],
)
def test_every_backbone_gives_tokens(backbone: str, options: dict[str, int], tokens: int) -> None:
    encoder = make_encoder(backbone=backbone, **options)
    size = options["image_size"]
    output = encoder(torch.randn(2, options.get("channels", 3), size, size))
    assert output.shape == (2, tokens, encoder.width)
    assert encoder.token_count == tokens


def test_first_token_of_a_feature_map_is_the_mean_of_the_places() -> None:
    tokens = make_encoder(image_size=64)(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(1))


def test_channels_last_maps_are_read_in_the_same_order() -> None:
    encoder = make_encoder(backbone="swin_tiny_patch4_window7_224", image_size=224).eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        map_BHWV = encoder.backbone.forward_features(image)
        tokens = encoder(image)
    torch.testing.assert_close(tokens[0, 1 + 7 * 2 + 3], map_BHWV[0, 2, 3])


@pytest.mark.parametrize("backbone", ["test_resnet", "resnetv2_18", "test_vit"])
def test_a_sample_alone_equals_the_sample_in_a_batch(backbone: str) -> None:
    encoder = make_encoder(backbone=backbone)  # training mode on purpose
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(encoder(images)[:1], encoder(images[:1]), rtol=1e-4, atol=1e-5)


def test_batch_normalisation_can_be_kept() -> None:
    kept = make_encoder(normalisation="batch")
    assert any(isinstance(module, nn.BatchNorm2d) for module in kept.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in make_encoder().modules())


def test_replacing_keeps_parameters_and_activation() -> None:
    before = nn.Sequential(nn.Conv2d(3, 12, 1), BatchNormAct2d(12), nn.BatchNorm2d(12))
    names = [name for name, _ in before.named_parameters()]
    nn.init.normal_(before[1].weight)
    weight = before[1].weight.detach().clone()
    after = replace_batch_normalisation(before, groups=8)
    assert [name for name, _ in after.named_parameters()] == names
    assert torch.equal(after[1].weight, weight)  # type: ignore[index]
    groups = [module.num_groups for module in after.modules() if isinstance(module, nn.GroupNorm)]
    assert groups == [4, 4]
    assert (after[1](torch.randn(2, 12, 4, 4)) >= 0).all()  # type: ignore[index]


def test_unknown_backbone_and_impossible_options() -> None:
    with pytest.raises(ConfigError, match="resnet1800"):
        make_encoder(backbone="resnet1800")
    with pytest.raises(ConfigError, match="output_stride"):
        make_encoder(backbone="test_vit", output_stride=8)


def test_local_weights_round_trip_and_misfit(tmp_path) -> None:
    encoder = make_encoder()
    path = tmp_path / "vision.safetensors"
    save_file(encoder.backbone.state_dict(), path)
    loaded = create_backbone(VisionConfig(backbone="test_resnet", image_size=32, weights=str(path)))
    for ours, theirs in zip(loaded.parameters(), encoder.backbone.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(CheckpointError, match=r"missing .* unexpected"):
        make_encoder(backbone="test_vit", weights=str(path))
    with pytest.raises(CheckpointError, match=r"model.vision.weights=.*no such file"):
        make_encoder(weights=str(tmp_path / "absent.safetensors"))


def test_unknown_tag_is_one_line() -> None:
    with pytest.raises(CheckpointError, match="no_such_tag") as caught:
        make_encoder(weights="no_such_tag")
    assert "\n" not in str(caught.value)


def test_image_normalisation_of_a_tag() -> None:
    mean, std = image_normalisation(VisionConfig(backbone="vit_large_patch14_clip_quickgelu_224", weights="openai"))
    assert mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    assert std == pytest.approx((0.2686, 0.2613, 0.2758), abs=1e-4)
    assert image_normalisation(VisionConfig(channels=1)) == ((0.5,), (0.5,))
