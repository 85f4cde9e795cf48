"""Text encoder: BioGPT, read as a sequence of token states.

Shapes: B batch, L text tokens, T width of a token state.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BioGptConfig, BioGptModel

from medvlmoe.model.config import TextConfig
from medvlmoe.model.memory import without_memory
from medvlmoe.model.recomputation import recompute_activations
from medvlmoe.model.text_stand_ins import EmbeddingBag, NullToken
from medvlmoe.model.text_weights import load_text_weights
from medvlmoe.model.trainable import choose_trainable, evaluate_frozen_modules


class TextEncoder(nn.Module):
    """Token numbers, padded on the right, to token states (paper, section 3.2).

    Right padding together with causal attention keeps padding out of every real token's state. Frozen modules stay in
    evaluation mode: no dropout.

    Attributes:
        width: T, size of a token state.
        ignores_text: whether the states are the same for every text (``encoder=null_token``); then they stand for one
            token, and whoever calls must not let the length of the text show.

    Raises:
        ConfigError: the sizes of pretrained weights differ from the configured ones.
        CheckpointError: the weights cannot be had or do not fit.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.width = config.hidden_size
        self.ignores_text = config.encoder == "null_token"
        self.is_biogpt = config.encoder == "biogpt"
        if not self.is_biogpt:
            self.model: Any = NullToken(config) if self.ignores_text else EmbeddingBag(config)
            return
        if config.weights is None:
            self.model = BioGptModel(_biogpt_config(config))
        else:
            self.model = without_memory(lambda: BioGptModel(_biogpt_config(config)))  # random weights would be lost
            load_text_weights(self.model, config)
        choose_trainable(self.model, _blocks(self.model), config, "text")
        self.train()

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """Token states, shape (B, L, T). Those at padding mean nothing."""
        if not self.is_biogpt:
            return self.model(input_ids_BL)
        output = self.model(input_ids=input_ids_BL, attention_mask=attention_mask_BL, use_cache=False)
        return output.last_hidden_state

    def train(self, mode: bool = True) -> "TextEncoder":
        """Training mode for what learns, evaluation mode for what is frozen."""
        super().train(mode)
        evaluate_frozen_modules(self)
        return self

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        if self.is_biogpt:  # the others have nothing to recompute
            recompute_activations(self.model, enabled)


def pool_text(states_BLD: Tensor, attention_mask_BL: Tensor, how: str) -> Tensor:
    """One vector per text, shape (B, D).

    Args:
        states_BLD: a state for each token.
        attention_mask_BL: 1 for tokens, 0 for padding on the right.
        how: ``mean`` over the tokens after the first, or the ``last`` token.

    The first token is left out because its state in a causal model cannot depend on the text. A text without any
    other token has nothing else to give and gets the first.
    """
    length_B = attention_mask_BL.sum(1)
    place_L = torch.arange(states_BLD.shape[1], device=states_BLD.device)
    if how == "last":
        chosen_BL = place_L == (length_B - 1).unsqueeze(1)
    else:
        first_B = (length_B > 1).to(place_L.dtype)
        chosen_BL = (place_L >= first_B.unsqueeze(1)) & (place_L < length_B.unsqueeze(1))
    # masked_fill, not a product: the states at padding may be anything, even NaN.
    total_BD = states_BLD.masked_fill(~chosen_BL.unsqueeze(-1), 0.0).sum(1)
    return total_BD / chosen_BL.sum(1, keepdim=True).clamp(min=1)


def _biogpt_config(config: TextConfig) -> BioGptConfig:
    return BioGptConfig(
        vocab_size=config.vocabulary_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.feed_forward_size,
        max_position_embeddings=config.max_positions,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        use_cache=False,
    )


def _blocks(model: BioGptModel) -> list[list[str]]:
    """Names of the parameters: the embeddings, then each layer; the last norm is with the last layer."""
    blocks: list[list[str]] = [[] for _ in range(1 + len(model.layers))]
    for name, _ in model.named_parameters():
        if name.startswith("layers."):
            blocks[1 + int(name.split(".")[1])].append(name)
        else:
            blocks[-1 if name.startswith("layer_norm.") else 0].append(name)
    return blocks
