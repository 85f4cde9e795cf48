"""BioViL (Boecking et al. 2022, arXiv 2204.09817). Shapes as in :mod:`medvlmoe.baselines.contrastive`."""

import math

from torch import Tensor, nn
from torch.nn.functional import linear

from medvlmoe.baselines.bert import BertText
from medvlmoe.baselines.config import BaselineConfig
from medvlmoe.baselines.contrastive import ContrastiveBaseline, Texts
from medvlmoe.baselines.encoders import hidden_states, word_embeddings
from medvlmoe.baselines.losses import contrastive_loss, mask_tokens, masked_language_loss, next_token_loss
from medvlmoe.data.tokenizer import load_tokenizer
from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.model.text import pool_text


class BioViL(ContrastiveBaseline):
    """Whole images against whole texts, while the text encoder goes on learning the language (reading A24).

    Every place of the last feature map is projected by 1x1 convolutions; their mean is the image vector. The text
    vector is the first token's state, projected. Stage A: InfoNCE with equal weights plus masked language modelling.

    With MedVLMoE's own BioGPT, which is causal, the first token knows nothing of the text: then the tokens' mean is
    projected, and the language loss is that of the next token, BioGPT's own.
    """

    def __init__(self, config: BaselineConfig, model: MedVLMoEConfig, label_count: int) -> None:
        super().__init__(config, model, label_count)
        self.options = config.biovil
        size, width = self.options.projection_size, self.text.width
        self.mask_token = load_tokenizer(model.text.tokenizer).mask_token
        self.fusion["patch_projection"] = nn.Sequential(
            nn.Conv1d(self.vision.width, size, 1, bias=False), _norm(config, size), nn.ReLU(), nn.Conv1d(size, size, 1)
        )
        self.fusion["text_projection"] = nn.Sequential(
            nn.Linear(width, size), nn.GELU(), nn.LayerNorm(size, eps=1e-12), nn.Linear(size, size)
        )
        self.fusion["language_head"] = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12))

    def pretraining_loss(self, image_BCHW: Tensor, image_labels_BY: Tensor, texts: Texts) -> Tensor:
        """InfoNCE of the pairs plus ``language_weight`` times the language loss."""
        patch_BVN = self.vision(image_BCHW)[:, 1:].transpose(1, 2)
        image_BP = self.fusion["patch_projection"](patch_BVN).mean(-1)
        text_BP = self.fusion["text_projection"](self.text_features(texts.input_ids_BL, texts.attention_mask_BL))
        pairs = contrastive_loss(image_BP, text_BP, self.options.temperature)
        if self.options.language_weight == 0:
            return pairs
        return pairs + self.options.language_weight * self._language_loss(texts)

    def text_features(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """State of the first token; of a causal encoder the mean of the others."""
        states_BLT = hidden_states(self.text, input_ids_BL, attention_mask_BL)[-1]
        if isinstance(self.text, BertText):
            return states_BLT[:, 0]
        return pool_text(states_BLT, attention_mask_BL, "mean")

    def _language_loss(self, texts: Texts) -> Tensor:
        seen_BL, targets_BL = texts.input_ids_BL, None
        if isinstance(self.text, BertText):
            seen_BL, targets_BL = mask_tokens(
                seen_BL,
                texts.attention_mask_BL,
                self.options.mask_share,
                self.mask_token,
                len(word_embeddings(self.text)),
            )
        states_BLT = hidden_states(self.text, seen_BL, texts.attention_mask_BL)[-1]
        logits_BLW = linear(self.fusion["language_head"](states_BLT), word_embeddings(self.text))
        if targets_BL is None:
            return next_token_loss(logits_BLW, texts.input_ids_BL, texts.attention_mask_BL)
        return masked_language_loss(logits_BLW, targets_BL)


def _norm(config: BaselineConfig, size: int) -> nn.Module:
    """BatchNorm as published, unless the run avoids batch statistics."""
    if config.image.normalisation == "batch":
        return nn.BatchNorm1d(size)
    return nn.GroupNorm(math.gcd(size, 32), size)
