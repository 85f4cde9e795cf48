"""What the four contrastive baselines share: two encoders, a shared space for stage A, a head for stage B.

Shapes: B batch, C H W image, V image width, L text tokens, T text width, P shared width, Y labels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medvlmoe.baselines.config import BaselineConfig
from medvlmoe.baselines.encoders import build_image_encoder, build_text_encoder
from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.model.output import MedVLMoEOutput


@dataclass(frozen=True)
class Texts:
    """Texts of a pre-training batch.

    Attributes:
        input_ids_BL: token numbers, padded on the right.
        attention_mask_BL: 1 for tokens.
        labels_BY: labels of the records that the texts belong to.
    """

    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    labels_BY: Tensor


class ContrastiveBaseline(nn.Module):
    """Image and text encoder; stage B reads the image's features before the projection, as published.

    With ``text_at_test=concat`` the text's features stand beside them. The parts are named so that
    :func:`medvlmoe.model.groups.parameter_group` knows them; ``fusion`` holds what only stage A needs.

    Args:
        config: the baseline.
        model: MedVLMoE's configuration: image size, tokenizer, and the encoders of ``backbone=shared``.
        label_count: Y.

    Attributes:
        decoupled: whether stage A draws images and texts independently of each other.
    """

    decoupled = False

    def __init__(self, config: BaselineConfig, model: MedVLMoEConfig, label_count: int) -> None:
        super().__init__()
        self.reads_text = config.reads_text
        self.vision = build_image_encoder(config, model)
        self.text = build_text_encoder(config, model)
        self.fusion = nn.ModuleDict()
        self.head = nn.Linear(self.vision.width + (self.text.width if self.reads_text else 0), label_count)

    @property
    def idle_groups(self) -> frozenset[str]:
        """Parameter groups that a prediction does not use."""
        return frozenset({"fusion"} if self.reads_text else {"fusion", "text"})

    def pretraining_loss(self, image_BCHW: Tensor, image_labels_BY: Tensor, texts: Texts) -> Tensor:
        """The loss of stage A; row i of ``texts`` belongs to image i unless the method is ``decoupled``."""
        raise NotImplementedError

    def text_features(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """One vector a text before the projection, shape (B, T)."""
        raise NotImplementedError

    def image_features(self, image_BCHW: Tensor) -> Tensor:
        """One vector an image before the projection, shape (B, V)."""
        return self.vision(image_BCHW)[:, 0]

    def forward(self, image_BCHW: Tensor, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> MedVLMoEOutput:
        """Predict, called as :class:`medvlmoe.model.MedVLMoE` is."""
        features_BF = self.image_features(image_BCHW)
        if self.reads_text:
            features_BF = torch.cat([features_BF, self.text_features(input_ids_BL, attention_mask_BL)], dim=-1)
        logits_BY = self.head(features_BF)
        return MedVLMoEOutput(logits_BY, logits_BY.new_zeros(()))

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute the encoders' activations in the backward pass instead of keeping them."""
        self.vision.set_gradient_checkpointing(enabled)
        self.text.set_gradient_checkpointing(enabled)
