"""Published weights for the image encoder: timm, open_clip and Hugging Face CLIP, as timm names them."""

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from timm.layers import QuickGELU
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from medvlmoe.errors import CheckpointError
from medvlmoe.model.config import VisionConfig
from medvlmoe.model.weights import find_weights, is_local, load_exactly, read_weights
from medvlmoe.model.weights_description import describe_weights, is_quick_gelu_in_timm

logger = logging.getLogger(__name__)

# Hugging Face's names, in the order in which they are replaced. Its queries, keys and values are three layers.
_HUGGING_FACE_NAMES = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("pre_layrnorm", "norm_pre"),
    ("post_layernorm", "norm"),
    ("encoder.layers.", "blocks."),
    ("layer_norm", "norm"),
    ("self_attn.out_proj", "attn.proj"),
    ("self_attn.", "attn."),
)
_QUERY = re.compile(r"(.*\.attn\.)q_proj(\.weight|\.bias)")


def local_vision_weights(config: VisionConfig) -> Path | None:
    """The weights file that ``config.weights`` stands for; ``None`` if there are no weights or it is a tag of timm.

    Raises:
        CheckpointError: there is none.
    """
    weights = config.weights
    if weights is None or not ("/" in weights or is_local(weights)):  # a tag has no slash
        return None
    return find_weights(Path(weights).expanduser(), "model.vision.weights")


def load_vision_weights(backbone: nn.Module, config: VisionConfig, path: Path) -> None:
    """Load a local weights file into a timm backbone without classifier.

    Raises:
        CheckpointError: the weights cannot be read, are of another architecture or activation, or their table of
            positions is of another image size and ``config.resize_positions`` is off.
    """
    description = describe_weights(path)
    refuse_other_activation(backbone, config.backbone, description.quick_gelu, str(path))
    if isinstance(backbone, VisionTransformer) and description.heads not in (None, _heads(backbone)):
        raise CheckpointError(
            f"{path} was trained with {description.heads} attention heads, backbone {config.backbone} has "
            f"{_heads(backbone)}; choose its own backbone"
        )
    tensors = read_weights(path)
    if any(name.startswith(("vision_model.", "embeddings.", "encoder.layers.")) for name in tensors):
        tensors = hugging_face_to_timm(tensors)
    if isinstance(backbone, VisionTransformer):
        _refuse_other_grid(tensors, backbone, config, path)
        tensors = checkpoint_filter_fn(tensors, backbone)
    tensors = _without_classifier(tensors, backbone)
    if description.quick_gelu is None and any(name.startswith("norm_pre.") for name in tensors):
        logger.warning("%s: no configuration file beside it tells GELU from QuickGELU; taken to be as backbone %s",
                       path, config.backbone)  # fmt: skip
    if config.normalisation == "group" and any(name.endswith(".running_mean") for name in tensors):
        raise CheckpointError(
            f"{path} was trained with batch normalisation; set model.vision.normalisation=batch to load it"
        )
    load_exactly(backbone, tensors, path, f"vision backbone {config.backbone}")


def hugging_face_to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of a Hugging Face ``CLIPModel`` or ``CLIPVisionModel`` under timm's names.

    timm joins the layers of queries, keys and values. The text tower and the projections are left out.
    """
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in tensors) else ""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix) or name.endswith("position_ids"):
            continue
        name = name.removeprefix(prefix)
        for theirs, ours in _HUGGING_FACE_NAMES:
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    for name in [name for name in renamed if _QUERY.fullmatch(name)]:
        three = [name.replace("q_proj", f"{letter}_proj") for letter in "qkv"]
        if all(part in renamed for part in three):
            renamed[name.replace("q_proj", "qkv")] = torch.cat([renamed.pop(part) for part in three])
    for name, axes in (("cls_token", 3), ("pos_embed", 3)):
        while name in renamed and renamed[name].ndim < axes:
            renamed[name] = renamed[name].unsqueeze(0)
    return renamed


def refuse_other_activation(backbone: nn.Module, name: str, quick_gelu: bool | None, source: str) -> None:
    """Refuse weights trained with QuickGELU on a backbone with GELU, and the other way round.

    All tensors would fit, and every state would be a little wrong.

    Args:
        backbone: the built backbone.
        name: its timm name.
        quick_gelu: whether the weights are of QuickGELU; ``None`` if unknown.
        source: the weights, for the message.

    Raises:
        CheckpointError: the activations differ.
    """
    computes = any(isinstance(module, QuickGELU) for module in backbone.modules())
    if quick_gelu is None or quick_gelu == computes:
        return
    trained, built = ("QuickGELU", "GELU") if quick_gelu else ("GELU", "QuickGELU")
    right = _counterpart(name)
    mend = f"set model.vision.backbone={right}" if timm.is_model(right) else f"choose a backbone with {trained}"
    raise CheckpointError(
        f"model.vision.weights={source} was trained with {trained}, backbone {name} computes {built}; {mend}"
    )


def check_tag(backbone: nn.Module, config: VisionConfig) -> None:
    """Make sure that timm knows the tag ``config.weights`` for this backbone, and that the activation is its own.

    Raises:
        CheckpointError: unknown tag, or another activation.
    """
    assert config.weights is not None
    tag = config.weights
    for name in (config.backbone, _counterpart(config.backbone)):
        if f"{name}.{tag}" in timm.list_pretrained(f"{name}.*"):
            return refuse_other_activation(backbone, config.backbone, is_quick_gelu_in_timm(name, tag), tag)
    known = [name.partition(".")[2] for name in timm.list_pretrained(f"{config.backbone}.*")]
    raise CheckpointError(
        f"model.vision.weights={tag}: no file or directory here, and no tag that timm knows for {config.backbone} "
        f"({', '.join(known) or 'it knows none'})"
    )


def _counterpart(name: str) -> str:
    """The name of the same backbone with the other activation."""
    return name.replace("_quickgelu", "") if "_quickgelu" in name else name.replace("_clip_", "_clip_quickgelu_")


def _heads(backbone: VisionTransformer) -> int:
    return backbone.blocks[0].attn.num_heads


def _refuse_other_grid(
    tensors: Mapping[str, Tensor], backbone: VisionTransformer, config: VisionConfig, path: Path
) -> None:
    """timm would resample patches and positions without a word."""
    patch = backbone.patch_embed.patch_size
    for name, tensor in tensors.items():
        if name.endswith(("patch_embed.proj.weight", "visual.conv1.weight")) and tuple(tensor.shape[2:]) != patch:
            raise CheckpointError(
                f"{path} has patches of {' x '.join(map(str, tensor.shape[2:]))} pixels, backbone {config.backbone} of "
                f"{' x '.join(map(str, patch))}; choose its own backbone"
            )
        if not name.endswith(("pos_embed", "visual.positional_embedding")) or config.resize_positions:
            continue
        positions, needed = tensor.shape[-2], backbone.pos_embed.shape[-2]
        if positions != needed:
            side = math.isqrt(positions - backbone.num_prefix_tokens) * patch[0]
            raise CheckpointError(
                f"{path} has {positions} positions, image_size={config.image_size} needs {needed}; set "
                f"model.vision.image_size={side}, or model.vision.resize_positions=true to resample them"
            )


def _without_classifier(tensors: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    names = getattr(backbone, "pretrained_cfg", {}).get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}
