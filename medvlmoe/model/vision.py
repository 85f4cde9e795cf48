"""Image encoder: any timm backbone, or the volume transformer, read as a sequence of tokens.

Shapes: B batch, N image tokens, V backbone width, C H W image channels, height, width (volumes: C D H W).
"""

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.model.config import VOLUME_BACKBONE, VisionConfig
from medvlmoe.model.normalisation import replace_batch_normalisation
from medvlmoe.model.volume_vision import VolumeTransformer
from medvlmoe.model.weights import SUFFIX, load_local_weights


class VisionEncoder(nn.Module):
    """Images to tokens, with a token that stands for the whole image at position 0 (paper, section 3.2).

    A vision transformer gives its class token and its patches. A convolutional feature map is flattened to one token
    per place and gets the mean of them in front, as does a transformer without a class token.

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
    local = config.weights is not None and config.weights.endswith(SUFFIX)
    tag = None if local else config.weights
    backbone = _create(config, tag)
    if config.normalisation == "group":
        backbone = replace_batch_normalisation(backbone, config.normalisation_groups)
    if local:
        assert config.weights is not None
        load_local_weights(backbone, config.weights, f"vision backbone {config.backbone}")
    return backbone


def image_normalisation(config: VisionConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel with which images of this backbone are normalised."""
    tagged = config.weights is not None and not config.weights.endswith(SUFFIX)
    if config.backbone == VOLUME_BACKBONE:
        return (0.5,) * config.channels, (0.5,) * config.channels
    known = timm.get_pretrained_cfg(f"{config.backbone}.{config.weights}" if tagged else config.backbone)
    if known is None or len(known.mean) != config.channels:
        return (0.5,) * config.channels, (0.5,) * config.channels
    return tuple(known.mean), tuple(known.std)


def _create(config: VisionConfig, tag: str | None) -> nn.Module:
    if config.backbone == VOLUME_BACKBONE:
        if tag is not None:
            raise CheckpointError(
                f"model.vision.weights={tag}: vit3d has no published weights; use null or a local {SUFFIX} file"
            )
        return VolumeTransformer(config)
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
            f"use a tag that timm lists, or a local {SUFFIX} file"
        ) from error
