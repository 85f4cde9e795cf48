"""ConVIRT (Zhang et al. 2020, arXiv 2010.00747). Shapes as in :mod:`medvlmoe.baselines.contrastive`."""

from torch import Tensor, nn

from medvlmoe.baselines.config import BaselineConfig
from medvlmoe.baselines.contrastive import ContrastiveBaseline, Texts
from medvlmoe.baselines.encoders import hidden_states
from medvlmoe.baselines.losses import contrastive_loss
from medvlmoe.model.config import MedVLMoEConfig


class ConVIRT(ContrastiveBaseline):
    """Whole images against whole texts, in both directions.

    Image vector: global average pooling. Text vector: the largest value of each component over the tokens. Each goes
    through Linear, ReLU, Linear into the shared space. Stage A: :func:`contrastive_loss` with tau and lambda.
    """

    def __init__(self, config: BaselineConfig, model: MedVLMoEConfig, label_count: int) -> None:
        super().__init__(config, model, label_count)
        self.options = config.convirt
        size = self.options.projection_size
        self.fusion["image_projection"] = _projection(self.vision.width, size)
        self.fusion["text_projection"] = _projection(self.text.width, size)

    def pretraining_loss(self, image_BCHW: Tensor, image_labels_BY: Tensor, texts: Texts) -> Tensor:
        """InfoNCE of the pairs, lambda of it for image to text."""
        image_BP = self.fusion["image_projection"](self.image_features(image_BCHW))
        text_BP = self.fusion["text_projection"](self.text_features(texts.input_ids_BL, texts.attention_mask_BL))
        return contrastive_loss(image_BP, text_BP, self.options.temperature, self.options.image_weight)

    def text_features(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """Maximum over the tokens."""
        states_BLT = hidden_states(self.text, input_ids_BL, attention_mask_BL)[-1]
        return states_BLT.masked_fill(~attention_mask_BL.bool().unsqueeze(-1), float("-inf")).amax(1)


def _projection(width: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, size), nn.ReLU(), nn.Linear(size, size))
