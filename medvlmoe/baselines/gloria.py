"""GLoRIA (Huang et al. 2021, ICCV). Shapes as in :mod:`medvlmoe.baselines.contrastive`; N regions, W words."""

import torch
from torch import Tensor, nn

from medvlmoe.baselines.config import BaselineConfig
from medvlmoe.baselines.contrastive import ContrastiveBaseline, Texts
from medvlmoe.baselines.encoders import hidden_states, regions_of_stage_before_last, width_of_stage_before_last
from medvlmoe.baselines.losses import global_match_loss, local_match_loss
from medvlmoe.baselines.words import WordPieces
from medvlmoe.data.tokenizer import load_tokenizer
from medvlmoe.model.config import MedVLMoEConfig


class GLoRIA(ContrastiveBaseline):
    """Whole images against whole texts, and regions against words.

    Regions are the places of the stage before the last (1x1 convolution to the text's width), the image vector is
    global average pooling (Linear to the same width). Words are the sum of the last four layers, pieces added up; the
    text vector is their mean. Stage A: global plus local matching, each in both directions.
    """

    def __init__(self, config: BaselineConfig, model: MedVLMoEConfig, label_count: int) -> None:
        super().__init__(config, model, label_count)
        self.options = config.gloria
        self.words = WordPieces(load_tokenizer(model.text.tokenizer))
        self.fusion["image_projection"] = nn.Linear(self.vision.width, self.text.width)
        # On flattened places a 1x1 convolution is a linear layer.
        self.fusion["region_projection"] = nn.Linear(
            width_of_stage_before_last(self.vision), self.text.width, bias=False
        )

    def pretraining_loss(self, image_BCHW: Tensor, image_labels_BY: Tensor, texts: Texts) -> Tensor:
        """Global plus local matching."""
        image_BV, region_BNV = regions_of_stage_before_last(self.vision, image_BCHW)
        word_BWT, mask_BW = self._words_of(texts.input_ids_BL, texts.attention_mask_BL)
        options = self.options
        whole = global_match_loss(
            self.fusion["image_projection"](image_BV), _mean(word_BWT, mask_BW), options.match_temperature
        )
        local = local_match_loss(
            self.fusion["region_projection"](region_BNV),
            word_BWT,
            mask_BW,
            options.attention_temperature,
            options.word_temperature,
            options.match_temperature,
        )
        return whole + options.local_weight * local

    def text_features(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """Mean over the words."""
        return _mean(*self._words_of(input_ids_BL, attention_mask_BL))

    def _words_of(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        layers = hidden_states(self.text, input_ids_BL, attention_mask_BL)[1:][-self.options.last_layers :]
        return self.words(torch.stack(list(layers)).sum(0), input_ids_BL, attention_mask_BL)


def _mean(word_BWT: Tensor, mask_BW: Tensor) -> Tensor:
    return word_BWT.masked_fill(~mask_BW.unsqueeze(-1), 0.0).sum(1) / mask_BW.sum(1, keepdim=True)
