"""The yardstick: a plain image classifier, what one would reach for first.

Shapes: B batch, C H W image channels, height, width, L text tokens, Y labels.
"""

import timm
import torch
from torch import Tensor, nn

from medvlmoe.errors import ConfigError
from medvlmoe.model.output import MedVLMoEOutput
from medvlmoe.seeds import derive_seed


class ImageClassifier(nn.Module):
    """A timm backbone as its authors made it (with its own normalisation), random weights, and a linear head.

    It is called like :class:`~medvlmoe.model.MedVLMoE` and ignores the text.

    Args:
        backbone: a timm model name.
        label_count: Y, rows of the head.
        image_size: needed by vision transformers only; ``None`` is the backbone's own size.
        channels: colour channels of the images.

    Raises:
        ConfigError: timm does not know the backbone.
    """

    def __init__(self, backbone: str, label_count: int, *, image_size: int | None = None, channels: int = 3) -> None:
        super().__init__()
        if not timm.is_model(backbone):
            raise ConfigError(f"yardstick backbone {backbone}: timm has no such model (see timm.list_models())")
        try:
            self.vision = timm.create_model(backbone, num_classes=0, in_chans=channels, img_size=image_size)
        except TypeError:  # convolutional backbones take any size and do not know the key
            self.vision = timm.create_model(backbone, num_classes=0, in_chans=channels)
        self.head = nn.Linear(self.vision.num_features, label_count)

    def forward(self, image_BCHW: Tensor, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> MedVLMoEOutput:
        """Logits of the images; the text is not looked at."""
        logits_BY = self.head(self.vision(image_BCHW))
        return MedVLMoEOutput(logits_BY, logits_BY.new_zeros(()))

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute the backbone's activations in the backward pass instead of keeping them."""
        self.vision.set_grad_checkpointing(enabled)


def build_image_classifier(
    backbone: str, label_count: int, seed: int, *, image_size: int | None = None, channels: int = 3
) -> ImageClassifier:
    """A yardstick whose random initial weights depend on ``seed`` only; leaves the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "model"))
        return ImageClassifier(backbone, label_count, image_size=image_size, channels=channels)
