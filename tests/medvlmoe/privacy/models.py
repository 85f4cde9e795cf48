"""Small models of every kind that is trained, and records for them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import medvlmoe.model  # noqa: F401  # before timm

# isort: split
import torch
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from medvlmoe.data.batch import Batch
from medvlmoe.data.labels import LabelBlock, LabelSpace
from medvlmoe.model import (
    FusionConfig,
    MedVLMoE,
    MedVLMoEConfig,
    MoEConfig,
    TextConfig,
    VisionConfig,
    build_image_classifier,
    build_model,
)
from medvlmoe.model.config import LoRAConfig, VolumeConfig

SPACE = LabelSpace.of(
    "mixed",
    LabelBlock("findings", "multilabel", ("Effusion", "Mass", "Hernia")),
    LabelBlock("grade", "ordinal", ("grade/0", "grade/1", "grade/2")),
)
IMAGE_SIZE = 32

__all__ = ["tiny_private_vit"]


@register_model
def tiny_private_vit(pretrained: bool = False, **options: object) -> nn.Module:
    """As CLIP's: a norm before the blocks; with a scale on each block, as newer ones have."""
    sizes = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "pre_norm": True, "init_values": 0.1}
    options.pop("pretrained_cfg", None)
    return build_model_with_cfg(VisionTransformer, "tiny_private_vit", **{"pretrained": False, **sizes, **options})


def tiny_model(
    backbone: str = "tiny_private_vit",
    moe: Mapping[str, object] | None = None,
    fusion: Mapping[str, object] | None = None,
    vision: Mapping[str, object] | None = None,
    text: Mapping[str, object] | None = None,
) -> MedVLMoE:
    config = MedVLMoEConfig(
        name="test",
        vision=VisionConfig(**{"backbone": backbone, "image_size": IMAGE_SIZE, **(vision or {})}),  # type: ignore[arg-type]
        text=TextConfig(
            **{
                "tokenizer": "byte",
                "vocabulary_size": 260,
                "max_tokens": 12,
                "hidden_size": 16,
                "layers": 2,
                "heads": 2,
                "feed_forward_size": 24,
                "max_positions": 16,
                "dropout": 0.0,
                **(text or {}),
            }
        ),
        fusion=FusionConfig(**{"dim": 8, "residual": True, "max_text_positions": 16, **(fusion or {})}),  # type: ignore[arg-type]
        moe=MoEConfig(**{"experts": 4, "top_k": 2, "balance_alpha": 0.0, **(moe or {})}),  # type: ignore[arg-type]
    )
    model = build_model(config, len(SPACE), seed=1)
    with torch.no_grad():  # zeros (biases, adapters' B) and near-zeros (class token) would hide mistakes
        generator = torch.Generator().manual_seed(2)
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: tiny_model(),
    "last_block": lambda: tiny_model(vision={"trainable_blocks": 1}),
    "resnet": lambda: tiny_model("test_resnet"),
    "dense": lambda: tiny_model("test_resnet", moe={"experts": 3, "top_k": 3}),
    "top1": lambda: tiny_model("test_resnet", moe={"experts": 3, "top_k": 1}),
    "tokens": lambda: tiny_model("test_resnet", moe={"unit": "token"}),
    "shared_expert": lambda: tiny_model("test_resnet", moe={"shared_experts": 1}),
    "dynamic": lambda: tiny_model("test_resnet", moe={"top_p": 0.5, "top_k": 3}),
    "no_attention": lambda: tiny_model("test_resnet", fusion={"kind": "concat"}),
    "mixture_residual": lambda: tiny_model("test_resnet", moe={"residual": True, "renormalise": False}),
    "separate": lambda: tiny_model(
        "test_resnet",
        fusion={"projections": "separate", "heads": 2, "output_projection": True, "gate": "vector", "residual": False},
    ),
    "single_token": lambda: tiny_model("test_resnet", fusion={"tokens": "cls", "gate": "none", "layer_norm": False}),
    "last_token": lambda: tiny_model("test_resnet", text={"pool": "last"}),
    "null_token": lambda: tiny_model("test_resnet", text={"encoder": "null_token"}),
    "null_token_dense": lambda: tiny_model(
        "test_resnet", text={"encoder": "null_token"}, moe={"experts": 3, "top_k": 3}, fusion={"kind": "concat"}
    ),
    "null_token_tokens": lambda: tiny_model("test_resnet", text={"encoder": "null_token"}, moe={"unit": "token"}),
    "bag_of_words": lambda: tiny_model("test_resnet", text={"encoder": "embedding_bag"}),
    "lora": lambda: tiny_model(
        vision={"lora": LoRAConfig(rank=2, targets=["qkv"])},
        text={"lora": LoRAConfig(rank=2, targets=["q_proj", "v_proj"])},
    ),
    "frozen": lambda: tiny_model(vision={"trainable_blocks": 0}, text={"trainable_blocks": 1}),
    "volumes": lambda: tiny_model(
        "vit3d",
        vision={"depth": 4, "channels": 1, "volume": VolumeConfig(patch_size=16, width=12, layers=1, heads=2)},
    ),
    "yardstick": lambda: build_image_classifier("test_vit", len(SPACE), 0, image_size=IMAGE_SIZE),
}


def make_batch(model: nn.Module, rows: int, seed: int = 0) -> Batch:
    """Records with texts of different lengths (one of a single token) and with unknown labels."""
    generator = torch.Generator().manual_seed(seed)
    vision = getattr(getattr(model, "config", None), "vision", None)
    channels, depth = (3, None) if vision is None else (vision.channels, vision.depth)
    size = (channels, *(() if depth is None else (depth,)), IMAGE_SIZE, IMAGE_SIZE)
    images = torch.randn(rows, *size, generator=generator)
    tokens = torch.randint(4, 260, (rows, 12), generator=generator)
    lengths = torch.randint(2, 13, (rows,), generator=generator)
    lengths[0] = 1
    mask = (torch.arange(12) < lengths[:, None]).long()
    tokens = torch.where(mask.bool(), tokens, 1)
    labels = torch.full((rows, len(SPACE)), torch.nan)
    labels[:, :3] = torch.randint(0, 2, (rows, 3), generator=generator).float()
    labels[torch.rand(rows, len(SPACE), generator=generator) < 0.3] = torch.nan
    graded = torch.arange(rows) % 2 == 0
    labels[:, 3:] = torch.nan
    labels[graded, 3:] = torch.eye(3)[torch.randint(0, 3, (rows,), generator=generator)][graded]
    names = [f"p{row}" for row in range(rows)]
    return Batch(images, tokens, mask, labels, names, names)


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    return replace(
        batch,
        **{
            name: getattr(batch, name)[rows]
            for name in ("image_BCHW", "input_ids_BL", "attention_mask_BL", "labels_BY")
        },
        patient_ids=[batch.patient_ids[row] for row in rows],
        study_ids=[batch.study_ids[row] for row in rows],
    )


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Ordinary gradients; zeros where there is none."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
