"""The ablation that has the image encoder alone (reading A19).

Shapes: B batch, C H W image channels, height, width, L text tokens, Y labels.
"""

import torch
from torch import Tensor, nn

from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.model.output import MedVLMoEOutput
from medvlmoe.model.vision import VisionEncoder


class VisionOnly(nn.Module):
    """The image encoder's token for the whole image and a linear head; called like MedVLMoE, it ignores the text.

    Args:
        config: the model; of it only ``vision`` counts.
        label_count: Y, rows of the head.

    Raises:
        ConfigError: the encoder cannot be built as configured.
        CheckpointError: its weights cannot be had or do not fit.
    """

    def __init__(self, config: MedVLMoEConfig, label_count: int) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionEncoder(config.vision)
        self.head = nn.Linear(self.vision.width, label_count)  # row y belongs to label y

    def forward(self, image_BCHW: Tensor, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> MedVLMoEOutput:
        """Logits of the images; the text is not looked at."""
        logits_BY = self.head(self.vision(image_BCHW)[:, 0])
        return MedVLMoEOutput(logits_BY, logits_BY.new_zeros(()))

    def routed_samples(self) -> Tensor:
        """There are no experts: shape (0,), int64."""
        return torch.zeros(0, dtype=torch.int64)

    def reset_routed_samples(self) -> None:
        """There is nothing to count."""

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute the encoder's activations in the backward pass instead of keeping them."""
        self.vision.set_gradient_checkpointing(enabled)
