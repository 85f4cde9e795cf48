"""A vision transformer shaped as CLIP's, small enough for milliseconds, under the two names that timm would give it."""

from functools import partial
from typing import Any

import medvlmoe.model  # noqa: F401  # before timm

# isort: split
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

__all__ = ["tiny_clip_32", "tiny_clip_quickgelu_32"]

default_cfgs = generate_default_cfgs(
    {
        name: {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "classifier": "head"}
        for name in ("tiny_clip_32.mine", "tiny_clip_quickgelu_32.theirs")
    }
)


def _tiny_clip(name: str, **options: Any) -> nn.Module:
    sizes = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "pre_norm": True}
    sizes |= {"norm_layer": partial(nn.LayerNorm, eps=1e-5)}
    options.pop("pretrained_cfg", None)
    return build_model_with_cfg(VisionTransformer, name, **{"pretrained": False, **sizes, **options})


@register_model
def tiny_clip_32(pretrained: bool = False, **options: Any) -> nn.Module:
    return _tiny_clip("tiny_clip_32", **options)


@register_model
def tiny_clip_quickgelu_32(pretrained: bool = False, **options: Any) -> nn.Module:
    return _tiny_clip("tiny_clip_quickgelu_32", act_layer="quick_gelu", **options)
