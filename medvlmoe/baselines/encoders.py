"""The encoders of a baseline, published or MedVLMoE's own, and what the methods read from them.

Shapes: B batch, C H W image, N regions, V image width, L text tokens, T text width.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import timm
from torch import Tensor, nn

from medvlmoe.baselines.bert import BertText
from medvlmoe.baselines.config import IMAGENET, BaselineConfig, ImageBackboneConfig
from medvlmoe.data.tokenizer import load_tokenizer
from medvlmoe.errors import ConfigError
from medvlmoe.model.config import MedVLMoEConfig, TextConfig, VisionConfig
from medvlmoe.model.text import TextEncoder
from medvlmoe.model.vision import VisionEncoder

BaselineText = BertText | TextEncoder


def build_image_encoder(config: BaselineConfig, model: MedVLMoEConfig) -> VisionEncoder:
    """The image encoder.

    Raises:
        ConfigError, CheckpointError: as for :class:`medvlmoe.model.vision.VisionEncoder`.
    """
    return VisionEncoder(baseline_vision(config, model))


def baseline_vision(config: BaselineConfig, model: MedVLMoEConfig) -> VisionConfig:
    """The image encoder's configuration; it also decides how images are normalised.

    Raises:
        ConfigError: the images are volumes, and the published encoders read flat ones; timm has no weights.
    """
    if config.backbone == "shared":
        return model.vision
    if model.vision.depth is not None:
        raise ConfigError(
            f"baseline.image.backbone={config.image.backbone} reads flat images, and model.vision.backbone="
            f"{model.vision.backbone} volumes; use baseline.backbone=shared"
        )
    return VisionConfig(
        backbone=config.image.backbone,
        image_size=model.vision.image_size,
        channels=model.vision.channels,
        weights=_weights(config.image),
        normalisation=config.image.normalisation,
        output_stride=config.image.output_stride,
        mean=model.vision.mean,
        std=model.vision.std,
    )


def baseline_text(config: BaselineConfig, model: MedVLMoEConfig) -> TextConfig:
    """The model's texts as the baseline reads them: with its own tokenizer and vocabulary, where it has these.

    Raises:
        ConfigError: there is no such tokenizer.
    """
    if config.backbone == "shared" or config.text.tokenizer is None:
        return model.text
    vocabulary_size = load_tokenizer(config.text.tokenizer).vocabulary_size
    return replace(model.text, tokenizer=config.text.tokenizer, vocabulary_size=vocabulary_size)


def build_text_encoder(config: BaselineConfig, model: MedVLMoEConfig, extra_tokens: int = 0) -> BaselineText:
    """The text encoder; ``extra_tokens`` are put before the texts.

    Raises:
        ConfigError, CheckpointError: as for :class:`BertText` and :class:`medvlmoe.model.text.TextEncoder`, and if
            the model's own encoder is one of its stand-ins, which have no layers to read from.
    """
    if config.backbone == "shared":
        if model.text.encoder != "biogpt":
            raise ConfigError(
                f"baseline.backbone=shared needs model.text.encoder=biogpt, not {model.text.encoder}; set it, or use "
                "baseline.backbone=published"
            )
        return TextEncoder(model.text)
    return BertText(config.text, model.text, extra_tokens)


def _weights(image: ImageBackboneConfig) -> str | None:
    if image.weights != IMAGENET:
        return image.weights
    known = timm.get_pretrained_cfg(image.backbone)
    if known is None or not known.tag:
        raise ConfigError(
            f"baseline.image.weights={IMAGENET}: timm has none for {image.backbone}; name a file or leave it out"
        )
    return str(known.tag)


def hidden_states(text: BaselineText, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Sequence[Tensor]:
    """Embeddings, then the states after each layer, each of shape (B, L, T)."""
    if isinstance(text, BertText):
        return text.hidden_states(input_ids_BL, attention_mask_BL)
    output = text.model(
        input_ids=input_ids_BL, attention_mask=attention_mask_BL, use_cache=False, output_hidden_states=True
    )
    return output.hidden_states


def word_embeddings(text: BaselineText) -> Tensor:
    """The table of word embeddings, shape (vocabulary, T)."""
    return text.embedding if isinstance(text, BertText) else text.model.get_input_embeddings().weight


def has_stages(vision: VisionEncoder) -> bool:
    """Whether the backbone is convolutional, so that an earlier stage gives finer regions than the last one."""
    return not vision.has_class_token and not vision.channels_last and hasattr(vision.backbone, "feature_info")


def regions_of_stage_before_last(vision: VisionEncoder, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Image vector (B, V) and the places of the stage before the last (B, N, width of that stage).

    A vision transformer has one stage: its patches are the regions.
    """
    if not has_stages(vision):
        tokens_BNV = vision(image_BCHW)
        return tokens_BNV[:, 0], tokens_BNV[:, 1:]
    backbone: Any = vision.backbone
    final_BVHW, (stage_BVHW,) = backbone.forward_intermediates(image_BCHW, indices=[len(backbone.feature_info) - 2])
    return final_BVHW.flatten(2).mean(-1), stage_BVHW.flatten(2).transpose(1, 2)


def width_of_stage_before_last(vision: VisionEncoder) -> int:
    """Width of what :func:`regions_of_stage_before_last` gives."""
    if not has_stages(vision):
        return vision.width
    return int(vision.backbone.feature_info[-2]["num_chs"])


def uses_batch_normalisation(model: nn.Module) -> bool:
    """Whether a prediction's training depends on the other rows of its batch; differential privacy forbids that."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
