"""What the configuration files beside published weights say about them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from transformers import CLIPVisionConfig

from medvlmoe.errors import CheckpointError
from medvlmoe.files import read_json


@dataclass(frozen=True, kw_only=True)
class WeightsDescription:
    """What cannot be seen from the tensors of an image encoder; ``None`` where no file says it.

    Attributes:
        quick_gelu: whether it was trained with QuickGELU, x * sigmoid(1.702 x), in place of GELU.
        heads: attention heads of a block.
        mean: subtracted from the images, by channel.
        std: divides the images, by channel.
    """

    quick_gelu: bool | None = None
    heads: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def describe_weights(file: Path) -> WeightsDescription:
    """Read ``config.json``, ``preprocessor_config.json`` and ``open_clip_config.json`` beside a weights file.

    A directory may hold the same weights in two formats with the configuration of each: the file's own comes first.

    Raises:
        CheckpointError: one of them is damaged, or names an activation other than GELU and QuickGELU.
    """
    readers: list[tuple[str, Callable[[Any, Path], WeightsDescription]]] = [
        ("config.json", _config),
        ("preprocessor_config.json", _preprocessor),
        ("open_clip_config.json", _open_clip),
    ]
    if file.name.startswith("open_clip"):
        readers.reverse()
    found: dict[str, Any] = {}
    for name, read in readers:
        path = file.parent / name
        if not path.exists():
            continue
        try:
            said = read(read_json(path), path)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); get it again") from error
        found = {**{key: value for key, value in vars(said).items() if value is not None}, **found}
    return WeightsDescription(**found)


def is_quick_gelu_in_timm(backbone: str, tag: str | None) -> bool:
    """Whether weights with this tag of timm, or without one, were trained with QuickGELU.

    timm lists some such weights for the backbone with GELU too, which computes another function, and says so in a note.
    """
    if "_quickgelu" in backbone or tag is None or f"{backbone}.{tag}" not in timm.list_pretrained(f"{backbone}.*"):
        return "_quickgelu" in backbone
    return any("quickgelu" in note.lower() for note in timm.get_pretrained_cfg(f"{backbone}.{tag}").notes or ())


def _config(content: Any, path: Path) -> WeightsDescription:
    """``config.json``: of timm's hub repositories, or of a Hugging Face CLIP; of another model it says nothing."""
    if "architecture" in content:
        trained = content.get("pretrained_cfg", content)
        mean, std = _statistics(trained, "mean", "std", path)
        quick_gelu = is_quick_gelu_in_timm(content["architecture"], trained.get("tag"))
        return WeightsDescription(quick_gelu=quick_gelu, mean=mean, std=std)
    if content.get("model_type") not in ("clip", "clip_vision_model"):
        return WeightsDescription()
    vision = CLIPVisionConfig.from_dict(content.get("vision_config") or content)  # what the file omits is a default
    return WeightsDescription(quick_gelu=_is_quick(vision.hidden_act, path), heads=vision.num_attention_heads)


def _preprocessor(content: Any, path: Path) -> WeightsDescription:
    mean, std = _statistics(content, "image_mean", "image_std", path)
    return WeightsDescription(mean=mean, std=std)


def _open_clip(content: Any, path: Path) -> WeightsDescription:
    model = content["model_cfg"]
    vision = model["vision_cfg"]
    mean, std = _statistics(content.get("preprocess_cfg", {}), "mean", "std", path)
    if "timm_model_name" in vision:  # timm's name says it
        return WeightsDescription(quick_gelu=is_quick_gelu_in_timm(vision["timm_model_name"], None), mean=mean, std=std)
    heads = vision["width"] // vision.get("head_width", 64)
    return WeightsDescription(quick_gelu=bool(model.get("quick_gelu")), heads=heads, mean=mean, std=std)


def _is_quick(activation: str, path: Path) -> bool:
    if activation not in ("gelu", "quick_gelu"):
        raise CheckpointError(
            f"{path}: hidden_act={activation}; no backbone here computes it, only gelu and quick_gelu"
        )
    return activation == "quick_gelu"


_Numbers = tuple[float, ...]


def _statistics(content: Any, mean: str, std: str, path: Path) -> tuple[_Numbers, _Numbers] | tuple[None, None]:
    if content.get(mean) is None or content.get(std) is None:
        return None, None
    means, deviations = tuple(map(float, content[mean])), tuple(map(float, content[std]))
    if not all(map(math.isfinite, (*means, *deviations))) or min(deviations) <= 0 or len(means) != len(deviations):
        raise CheckpointError(f"{path}: {mean} and {std} are no means and standard deviations; get it again")
    return means, deviations
