"""BioBERT-VQA, read as VGG16 and BioBERT joined by MFH (Yunnan University at VQA-Med 2021, CEUR 2936-120).

Shapes: B batch, C H W image, L text tokens, Q question tokens, Y labels.
"""

import torch
from torch import Tensor, nn

from medvlmoe.baselines.bert import BertText
from medvlmoe.baselines.bilinear import HighOrderFusion
from medvlmoe.baselines.config import BaselineConfig
from medvlmoe.baselines.encoders import build_image_encoder, build_text_encoder, hidden_states
from medvlmoe.data.tokenizer import load_tokenizer
from medvlmoe.errors import ConfigError
from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.model.output import MedVLMoEOutput
from medvlmoe.model.text import pool_text


class BioBERTVQA(nn.Module):
    """The findings as the answer to a question about the image; no stage A.

    The text is the question and, with ``text_at_test=concat``, what MedVLMoE reads. Image vector: global average
    pooling; text vector: BERT's first token (of a causal encoder the mean of the others).
    """

    question_Q: Tensor

    def __init__(self, config: BaselineConfig, model: MedVLMoEConfig, label_count: int) -> None:
        super().__init__()
        self.reads_text = config.reads_text
        options, longest = config.biobert_vqa, model.text.max_positions
        question_ids, mask = load_tokenizer(model.text.tokenizer).encode([options.question], longest)
        question_Q = question_ids[0, : int(mask.sum())]
        self.register_buffer("question_Q", question_Q, persistent=False)
        self.vision = build_image_encoder(config, model)
        self.text = build_text_encoder(config, model, extra_tokens=len(question_Q))
        if not isinstance(self.text, BertText) and model.text.max_tokens + len(question_Q) > longest:
            raise ConfigError(
                f"model.text.max_positions={longest}: question and text have up to "
                f"{model.text.max_tokens + len(question_Q)} tokens; lower model.text.max_tokens"
            )
        self.fusion = HighOrderFusion(
            self.vision.width, self.text.width, options.fused_size, options.factors, options.dropout
        )
        self.head = nn.Linear(2 * options.fused_size, label_count)

    def forward(self, image_BCHW: Tensor, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> MedVLMoEOutput:
        """Predict, called as :class:`medvlmoe.model.MedVLMoE` is."""
        question_BQ = self.question_Q.expand(len(image_BCHW), -1)
        if self.reads_text:
            # The text's own opening token gives way to the question's.
            input_ids_BL = torch.cat([question_BQ, input_ids_BL[:, 1:]], dim=1)
            attention_mask_BL = torch.cat([torch.ones_like(question_BQ), attention_mask_BL[:, 1:]], dim=1)
        else:
            input_ids_BL, attention_mask_BL = question_BQ, torch.ones_like(question_BQ)
        states_BLT = hidden_states(self.text, input_ids_BL, attention_mask_BL)[-1]
        causal = not isinstance(self.text, BertText)
        text_BT = pool_text(states_BLT, attention_mask_BL, "mean") if causal else states_BLT[:, 0]
        logits_BY = self.head(self.fusion(self.vision(image_BCHW)[:, 0], text_BT))
        return MedVLMoEOutput(logits_BY, logits_BY.new_zeros(()))

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute the encoders' activations in the backward pass instead of keeping them."""
        self.vision.set_gradient_checkpointing(enabled)
        self.text.set_gradient_checkpointing(enabled)
