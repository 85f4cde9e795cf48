"""The MedVLMoE model: encoders, cross-modal fusion, sparse experts, head."""

from typing import TYPE_CHECKING

from medvlmoe.lazy_package import lazy_attributes
from medvlmoe.torchvision_operators import declare_missing_operators

if TYPE_CHECKING:
    from medvlmoe.model.config import FusionConfig, LoRAConfig, MedVLMoEConfig, MoEConfig, TextConfig, VisionConfig
    from medvlmoe.model.fusion import CrossModalFusion
    from medvlmoe.model.image_classifier import ImageClassifier, build_image_classifier
    from medvlmoe.model.medvlmoe import AnyMedVLMoE, MedVLMoE, build_frozen_parts, build_model, empty_model
    from medvlmoe.model.moe import RoutingDecision, SparseMoE
    from medvlmoe.model.output import MedVLMoEOutput
    from medvlmoe.model.vision import image_normalisation, with_image_normalisation

declare_missing_operators()  # before any module of this package imports timm, transformers or torchvision

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

__getattr__ = lazy_attributes(
    __name__,
    {
        "AnyMedVLMoE": "medvlmoe",
        "CrossModalFusion": "fusion",
        "FusionConfig": "config",
        "ImageClassifier": "image_classifier",
        "LoRAConfig": "config",
        "MedVLMoE": "medvlmoe",
        "MedVLMoEConfig": "config",
        "MedVLMoEOutput": "output",
        "MoEConfig": "config",
        "RoutingDecision": "moe",
        "SparseMoE": "moe",
        "TextConfig": "config",
        "VisionConfig": "config",
        "build_frozen_parts": "medvlmoe",
        "build_image_classifier": "image_classifier",
        "build_model": "medvlmoe",
        "empty_model": "medvlmoe",
        "image_normalisation": "vision",
        "with_image_normalisation": "vision",
    },
)
