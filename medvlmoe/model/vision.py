"""Image encoder: any timm backbone, or the volume transformer, read as a sequence of tokens.

Shapes: B batch, N image tokens, V backbone width, C H W image channels, height, width (volumes: C D H W).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.func import functional_call

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.model.config import VOLUME_BACKBONE, VisionConfig
from medvlmoe.model.memory import without_memory
from medvlmoe.model.normalisation import replace_batch_normalisation
from medvlmoe.model.trainable import choose_trainable, evaluate_frozen_modules
from medvlmoe.model.vision_weights import check_tag, load_vision_weights, local_vision_weights
from medvlmoe.model.volume_vision import VolumeTransformer
from medvlmoe.model.weights_description import describe_weights


class VisionEncoder(nn.Module):
    """Images to tokens, with a token that stands for the whole image at position 0 (paper, section 3.2).

    A vision transformer gives its class token and its patches. A convolutional feature map is flattened to one token
    per place and gets the mean of them in front, as does a transformer without a class token.

    Frozen modules stay in evaluation mode: no dropout, no drop path, no new batch statistics.

    Attributes:
        width: V, size of a token.
        token_count: N, including the one at position 0.

    Raises:
        ConfigError: timm does not know the backbone, or it cannot take the image size.
        CheckpointError: the weights cannot be had or do not fit.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.backbone: Any = create_backbone(config)
        choose_trainable(self.backbone, _blocks(self.backbone), config, "vision")
        self.channels_last = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
        self.has_class_token = getattr(self.backbone, "num_prefix_tokens", 0) > 0
        _, self.token_count, self.width = self._output_shape(config)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Token states, shape (B, N, V)."""
        features = self.backbone.forward_features(image_BCHW)
        if features.ndim == 4:
            features = features.flatten(1, 2) if self.channels_last else features.flatten(2).transpose(1, 2)
        if self.has_class_token:
            return features
        return torch.cat([features.mean(1, keepdim=True), features], dim=1)

    def train(self, mode: bool = True) -> "VisionEncoder":
        """Training mode for what learns, evaluation mode for what is frozen."""
        super().train(mode)
        evaluate_frozen_modules(self)
        return self

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.backbone.set_grad_checkpointing(enabled)

    def _output_shape(self, config: VisionConfig) -> torch.Size:
        """Shape of the tokens of one image, found on the meta device, which computes nothing."""
        state = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
        slices = () if config.depth is None else (config.depth,)
        image = torch.empty(1, config.channels, *slices, config.image_size, config.image_size, device="meta")
        self.eval()
        try:
            with torch.no_grad():
                return functional_call(self, on_meta, (image,)).shape
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"model.vision.backbone={config.backbone} cannot read images of "
                f"image_size={config.image_size}: {reason}"
            ) from error
        finally:
            self.train()


def create_backbone(config: VisionConfig) -> nn.Module:
    """The timm backbone without its classifier, normalised and with weights as configured.

    Raises:
        ConfigError: timm does not know the backbone or one of the options.
        CheckpointError: the weights cannot be had or do not fit.
    """
    if config.backbone != VOLUME_BACKBONE and not timm.is_model(config.backbone):
        raise ConfigError(f"model.vision.backbone={config.backbone}: timm has no such model (see timm.list_models())")
    local = local_vision_weights(config)
    if local is None:
        return _normalised(_create(config, config.weights), config)
    backbone = without_memory(lambda: _normalised(_create(config, None), config))  # random weights would be overwritten
    load_vision_weights(backbone, config, local)
    return backbone


def image_normalisation(config: VisionConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel with which images of this encoder are normalised.

    They are the configured ones, else those that its weights were trained with, else its backbone's, else 0.5.

    Raises:
        CheckpointError: there are no weights at the configured path, or their description is damaged.
    """
    if config.mean is not None and config.std is not None:
        return tuple(config.mean), tuple(config.std)
    for mean, std in _trained_normalisations(config):
        if len(mean) == config.channels:
            return mean, std
    return (0.5,) * config.channels, (0.5,) * config.channels


def with_image_normalisation(config: VisionConfig) -> VisionConfig:
    """The same configuration with mean and standard deviation written out: who has it needs no weights file for them.

    Raises:
        CheckpointError: as for :func:`image_normalisation`.
    """
    mean, std = image_normalisation(config)
    return replace(config, mean=list(mean), std=list(std))


def _trained_normalisations(config: VisionConfig) -> Iterator[tuple[tuple[float, ...], tuple[float, ...]]]:
    if config.backbone == VOLUME_BACKBONE:
        return
    name = config.backbone
    local = local_vision_weights(config)
    if local is not None:
        found = describe_weights(local)
        if found.mean is not None and found.std is not None:
            yield found.mean, found.std
    elif f"{name}.{config.weights}" in timm.list_pretrained(f"{name}.*"):
        name = f"{name}.{config.weights}"
    known = timm.get_pretrained_cfg(name)
    if known is not None:
        yield tuple(known.mean), tuple(known.std)


def _blocks(backbone: Any) -> list[list[str]]:
    """Names of the parameters of each block, first to last, as timm groups them; what follows is with the last."""
    return list(group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=False).values())


def _normalised(backbone: nn.Module, config: VisionConfig) -> nn.Module:
    if config.normalisation == "group":
        return replace_batch_normalisation(backbone, config.normalisation_groups)
    return backbone


def _create(config: VisionConfig, tag: str | None) -> nn.Module:
    if config.backbone == VOLUME_BACKBONE:
        if tag is not None:
            raise CheckpointError(
                f"model.vision.weights={tag}: vit3d has no published weights; use null or a local file"
            )
        return VolumeTransformer(config)
    if tag is not None:
        with torch.device("meta"):
            check_tag(_create(config, None), config)
    name = config.backbone if tag is None else f"{config.backbone}.{tag}"
    options: dict[str, Any] = {"num_classes": 0, "in_chans": config.channels, "pretrained": tag is not None}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    if config.output_stride is not None:
        options["output_stride"] = config.output_stride
    try:
        try:
            return timm.create_model(name, img_size=config.image_size, **options)
        except TypeError:  # convolutional backbones take any size and do not know the key
            return timm.create_model(name, **options)
    except (TypeError, AssertionError) as error:
        raise ConfigError(f"model.vision: {config.backbone} does not take these options: {error}") from error
    except Exception as error:
        if tag is None:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"model.vision.weights={tag}: timm cannot load it for {config.backbone} ({reason}); "
            "get its files and name their directory"
        ) from error
