"""CLIP-Med, read as MedCLIP (Wang et al. 2022, arXiv 2210.10163).

Shapes as in :mod:`medvlmoe.baselines.contrastive`.
"""

import math

import torch
from torch import Tensor, nn

from medvlmoe.baselines.config import BaselineConfig
from medvlmoe.baselines.contrastive import ContrastiveBaseline, Texts
from medvlmoe.baselines.encoders import hidden_states
from medvlmoe.baselines.losses import soft_target_loss
from medvlmoe.baselines.losses.soft_targets import signed_labels
from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.model.text import pool_text

_LARGEST_LOG_SCALE = math.log(100)


class ClipMed(ContrastiveBaseline):
    """Images and texts drawn independently; how much they belong together is told by their labels.

    Text vector: mean of the first, second and last layer's states, then of the tokens. Linear layers without bias lead
    to the shared space. Stage A: :func:`soft_target_loss` with a learned scale, never above 100.
    """

    decoupled = True

    def __init__(self, config: BaselineConfig, model: MedVLMoEConfig, label_count: int) -> None:
        super().__init__(config, model, label_count)
        size = config.clip_med.projection_size
        self.fusion["image_projection"] = nn.Linear(self.vision.width, size, bias=False)
        self.fusion["text_projection"] = nn.Linear(self.text.width, size, bias=False)
        self.fusion["scale"] = _LearnedScale(1 / config.clip_med.temperature)

    def pretraining_loss(self, image_BCHW: Tensor, image_labels_BY: Tensor, texts: Texts) -> Tensor:
        """Soft-target cross-entropy over all images and texts of the batch."""
        return soft_target_loss(
            self.fusion["image_projection"](self.image_features(image_BCHW)),
            self.fusion["text_projection"](self.text_features(texts.input_ids_BL, texts.attention_mask_BL)),
            signed_labels(image_labels_BY),
            signed_labels(texts.labels_BY),
            self.fusion["scale"](),
        )

    def text_features(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """Mean over layers 1, 2 and last, and over the tokens."""
        states = hidden_states(self.text, input_ids_BL, attention_mask_BL)
        mean_BLT = torch.stack([states[1], states[min(2, len(states) - 1)], states[-1]]).mean(0)
        return pool_text(mean_BLT, attention_mask_BL, "mean")


class _LearnedScale(nn.Module):
    """exp of one number that learns, held between 1 and 100."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        return self.log_scale.clamp(0.0, _LARGEST_LOG_SCALE).exp()
