"""Published formats of image encoders, each held to the library that wrote it."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, CLIPVisionModel

from medvlmoe.errors import CheckpointError
from medvlmoe.model import VisionConfig, image_normalisation
from medvlmoe.model.vision import VisionEncoder

SIZES = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"image_size": 32, "patch_size": 8}
BACKBONE = {"gelu": "tiny_clip_32", "quick_gelu": "tiny_clip_quickgelu_32"}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def encoder(path: Path, backbone: str = "tiny_clip_32", **options: Any) -> VisionEncoder:
    config = VisionConfig(backbone=backbone, weights=str(path), **{"image_size": 32, **options})
    return VisionEncoder(config).eval()


def hugging_face_vision(activation: str = "gelu", **sizes: int) -> CLIPVisionModel:
    torch.manual_seed(1)
    model = CLIPVisionModel(CLIPVisionConfig(**{**SIZES, **sizes}, hidden_act=activation))
    for parameter in model.parameters():  # its own initial values have zeros and ones that hide mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def hugging_face_tokens(model: Any) -> Tensor:
    """timm normalises every token at the end, Hugging Face only the class token."""
    tower = getattr(model, "vision_model", model)
    return tower.post_layernorm(tower(IMAGES).last_hidden_state)


def hugging_face_clip(activation: str) -> CLIPModel:
    vision = hugging_face_vision(activation)
    text = CLIPTextConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                          vocab_size=50, bos_token_id=1, eos_token_id=2)  # fmt: skip
    model = CLIPModel(CLIPConfig(vision_config=vision.config.to_dict(), text_config=text.to_dict()))
    model.vision_model.load_state_dict(vision.state_dict())
    return model.eval()


def open_clip(quick_gelu: bool) -> CLIP:
    torch.manual_seed(2)
    vision = CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=32)
    text = CLIPTextCfg(context_length=8, vocab_size=20, width=16, heads=2, layers=1)
    model = CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text, quick_gelu=quick_gelu)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def open_clip_tokens(model: CLIP) -> Tensor:
    _, hooked = [], []
    handle = model.visual.transformer.register_forward_hook(lambda module, inputs, output: hooked.append(output))
    model.visual(IMAGES)
    handle.remove()
    return model.visual.ln_post(hooked[0])


def write_open_clip_config(folder: Path, quick_gelu: bool, head_width: int = 16) -> None:
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": head_width, "patch_size": 8}
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    described = {"model_cfg": {"embed_dim": 16, "quick_gelu": quick_gelu, "vision_cfg": vision},
                 "preprocess_cfg": preprocess}  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(described))


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("make", [hugging_face_vision, hugging_face_clip])
def test_hugging_face_clip_gives_the_same_tokens(make: Any, activation: str, tmp_path: Path) -> None:
    model = make(activation)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(
        encoder(tmp_path, BACKBONE[activation])(IMAGES), hugging_face_tokens(model), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("form", ["safetensors", "bin", "wrapped"])
def test_open_clip_gives_the_same_tokens(form: str, quick_gelu: bool, tmp_path: Path) -> None:
    model = open_clip(quick_gelu)
    state = model.state_dict()
    if form == "safetensors":
        save_file(state, tmp_path / "open_clip_model.safetensors")
    elif form == "bin":
        torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    else:  # as its training program saves: several processes, beside the optimizer
        wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": {"state": {}}}, tmp_path / "epoch_3.pt")
    write_open_clip_config(tmp_path, quick_gelu)
    backbone = BACKBONE["quick_gelu" if quick_gelu else "gelu"]
    torch.testing.assert_close(encoder(tmp_path, backbone)(IMAGES), open_clip_tokens(model), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_timm_file_with_its_classifier(tmp_path: Path) -> None:
    first = VisionEncoder(VisionConfig(backbone="test_vit", image_size=32)).eval()
    head = {"head.weight": torch.zeros(10, first.width), "head.bias": torch.zeros(10)}
    torch.save(dict(first.backbone.state_dict()) | head, tmp_path / "model.pth")
    assert torch.equal(encoder(tmp_path / "model.pth", "test_vit")(IMAGES), first(IMAGES))


def test_weights_in_half_precision_become_float32(tmp_path: Path) -> None:
    hugging_face_vision().half().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in encoder(tmp_path).parameters()} == {torch.float32}


def save_hugging_face(folder: Path, quick: bool) -> None:
    hugging_face_vision("quick_gelu" if quick else "gelu").save_pretrained(folder)


def save_open_clip(folder: Path, quick: bool) -> None:
    save_file(open_clip(quick).state_dict(), folder / "open_clip_model.safetensors")
    write_open_clip_config(folder, quick)


def save_timm(folder: Path, quick: bool) -> None:
    name = BACKBONE["quick_gelu" if quick else "gelu"]
    save_file(VisionEncoder(VisionConfig(backbone=name, image_size=32)).backbone.state_dict(),
              folder / "model.safetensors")  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"architecture": name, "pretrained_cfg": {}}))


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("save", [save_hugging_face, save_open_clip, save_timm])
def test_other_activation_is_refused_with_the_right_backbone(save: Any, quick: bool, tmp_path: Path) -> None:
    save(tmp_path, quick)
    wrong, right = ("tiny_clip_32", "tiny_clip_quickgelu_32") if quick else ("tiny_clip_quickgelu_32", "tiny_clip_32")
    with pytest.raises(CheckpointError, match=rf"set model\.vision\.backbone={right}$"):
        encoder(tmp_path, wrong)
    encoder(tmp_path, right)


def test_activation_that_the_configuration_omits_is_the_librarys_default(tmp_path: Path) -> None:
    save_hugging_face(tmp_path, True)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["hidden_act"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="trained with QuickGELU"):
        encoder(tmp_path, "tiny_clip_32")


def test_another_activation_is_refused(tmp_path: Path) -> None:
    hugging_face_vision("relu").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="hidden_act=relu"):
        encoder(tmp_path)


def test_file_alone_is_trusted_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(open_clip(False).state_dict(), tmp_path / "weights.safetensors")
    with caplog.at_level(logging.WARNING):
        encoder(tmp_path / "weights.safetensors")
    assert "GELU from QuickGELU" in caplog.text


@pytest.mark.parametrize(
    ("backbone", "tag", "right"),
    [
        ("vit_large_patch14_clip_224", "openai", "vit_large_patch14_clip_quickgelu_224"),
        ("vit_large_patch14_clip_quickgelu_224", "laion2b", "vit_large_patch14_clip_224"),
    ],
)
def test_tag_of_the_other_activation_is_refused_before_anything_is_downloaded(
    backbone: str, tag: str, right: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"set model\.vision\.backbone={right}$"):
        VisionEncoder(VisionConfig(backbone=backbone, weights=tag))


def test_other_number_of_heads_is_refused(tmp_path: Path) -> None:
    hugging_face_vision(num_attention_heads=4).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="4 attention heads, backbone tiny_clip_32 has 2"):
        encoder(tmp_path)
    save_file(open_clip(False).state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    write_open_clip_config(tmp_path, quick_gelu=False, head_width=8)
    with pytest.raises(CheckpointError, match="4 attention heads"):
        encoder(tmp_path)


def test_partial_file_is_refused_with_the_names(tmp_path: Path) -> None:
    hugging_face_vision().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.layers.1.self_attn.k_proj.weight"]
    state["encoder.layers.0.mlp.fc1.bias"] = torch.zeros(3)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        encoder(tmp_path)
    message = str(caught.value)
    assert "1 missing (blocks.1.attn.qkv.weight)" in message
    assert "2 unexpected (blocks.1.attn.q_proj.weight, blocks.1.attn.v_proj.weight)" in message
    assert "1 of another shape (blocks.0.mlp.fc1.bias)" in message


def test_other_patch_size_is_refused_not_resampled(tmp_path: Path) -> None:
    hugging_face_vision(patch_size=16).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="patches of 16 x 16 pixels, backbone tiny_clip_32 of 8 x 8"):
        encoder(tmp_path, resize_positions=True)


@torch.no_grad()
def test_positions_of_another_image_size_only_when_asked(tmp_path: Path) -> None:
    model = hugging_face_vision()
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"17 positions, image_size=64 needs 65; set model.vision.image_size=32"):
        encoder(tmp_path, image_size=64)
    resized = encoder(tmp_path, image_size=64, resize_positions=True)
    table = model.embeddings.position_embedding.weight
    assert torch.equal(resized.backbone.pos_embed[0, 0], table[0])  # the class token has no place
    assert resized(torch.zeros(1, 3, 64, 64)).shape == (1, 65, 32)
    constant = encoder(tmp_path, image_size=32, resize_positions=True)
    assert torch.equal(constant.backbone.pos_embed[0], table)


def test_batch_normalised_weights_are_refused_where_group_is_configured(tmp_path: Path) -> None:
    batch = VisionEncoder(VisionConfig(backbone="test_resnet", image_size=32, normalisation="batch"))
    save_file(batch.backbone.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"set model\.vision\.normalisation=batch"):
        encoder(tmp_path, "test_resnet")
    encoder(tmp_path, "test_resnet", normalisation="batch")


def test_images_are_normalised_as_the_weights_were_trained(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("hf", "open_clip", "timm", "bare")}
    for folder in folders.values():
        folder.mkdir()
    save_hugging_face(folders["hf"], False)
    preprocessor = {"image_mean": [0.7, 0.8, 0.9], "image_std": [0.1, 0.2, 0.3]}
    (folders["hf"] / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    save_open_clip(folders["open_clip"], False)
    save_timm(folders["timm"], False)
    described = {"architecture": "tiny_clip_32", "pretrained_cfg": {"mean": [0.2, 0.2, 0.2], "std": [0.3, 0.3, 0.3]}}
    (folders["timm"] / "config.json").write_text(json.dumps(described))
    save_file(open_clip(False).state_dict(), folders["bare"] / "model.safetensors")

    def normalisation(name: str, **options: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return image_normalisation(VisionConfig(backbone="tiny_clip_32", weights=str(folders[name]), **options))

    assert normalisation("hf") == ((0.7, 0.8, 0.9), (0.1, 0.2, 0.3))
    assert normalisation("open_clip") == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert normalisation("timm") == ((0.2, 0.2, 0.2), (0.3, 0.3, 0.3))
    assert normalisation("bare") == ((0.5,) * 3, (0.5,) * 3)  # the backbone's
    assert normalisation("hf", mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]) == ((0.0,) * 3, (1.0,) * 3)


def test_two_formats_in_one_directory_each_with_its_own_configuration(tmp_path: Path) -> None:
    save_hugging_face(tmp_path, False)
    save_open_clip(tmp_path, False)
    preprocessor = {"image_mean": [0.7, 0.8, 0.9], "image_std": [0.1, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    for name, mean in (("model.safetensors", 0.7), ("open_clip_model.safetensors", 0.1)):
        config = VisionConfig(backbone="tiny_clip_32", weights=str(tmp_path / name))
        assert image_normalisation(config)[0][0] == mean


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot read"), ('{"image_mean": [0.5], "image_std": [0.0]}', "no means"), ('{"image_mean": 3}', None),
     ('["a"]', "damaged")],
)  # fmt: skip
def test_damaged_description_is_one_line(content: str, message: str | None, tmp_path: Path) -> None:
    save_hugging_face(tmp_path, False)
    (tmp_path / "preprocessor_config.json").write_text(content)
    if message is None:
        encoder(tmp_path)
        return
    with pytest.raises(CheckpointError, match=message) as caught:
        encoder(tmp_path)
    assert "\n" not in str(caught.value)
