"""The MedVLMoE model: encoders, cross-modal fusion, sparse experts, head."""

from medvlmoe.torchvision_operators import declare_missing_operators

declare_missing_operators()  # before any module below imports timm or transformers

from medvlmoe.model.config import (  # noqa: E402
    FusionConfig,
    LoRAConfig,
    MedVLMoEConfig,
    MoEConfig,
    TextConfig,
    VisionConfig,
)
from medvlmoe.model.fusion import CrossModalFusion  # noqa: E402
from medvlmoe.model.image_classifier import ImageClassifier, build_image_classifier  # noqa: E402
from medvlmoe.model.medvlmoe import AnyMedVLMoE, MedVLMoE, build_frozen_parts, build_model, empty_model  # noqa: E402
from medvlmoe.model.moe import RoutingDecision, SparseMoE  # noqa: E402
from medvlmoe.model.output import MedVLMoEOutput  # noqa: E402
from medvlmoe.model.vision import image_normalisation, with_image_normalisation  # noqa: E402

__all__ = [
    "AnyMedVLMoE",
    "CrossModalFusion",
    "FusionConfig",
    "ImageClassifier",
    "LoRAConfig",
    "MedVLMoE",
    "MedVLMoEConfig",
    "MedVLMoEOutput",
    "MoEConfig",
    "RoutingDecision",
    "SparseMoE",
    "TextConfig",
    "VisionConfig",
    "build_frozen_parts",
    "build_image_classifier",
    "build_model",
    "empty_model",
    "image_normalisation",
    "with_image_normalisation",
]
