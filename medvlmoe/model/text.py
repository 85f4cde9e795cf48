"""Text encoder: BioGPT, read as a sequence of token states.

Shapes: B batch, L text tokens, T width of a token state.
"""

import torch
from torch import Tensor, nn
from transformers import BioGptConfig, BioGptModel

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.model.config import TextConfig
from medvlmoe.model.weights import SUFFIX, load_local_weights


class TextEncoder(nn.Module):
    """Token numbers, padded on the right, to token states (paper, section 3.2).

    Right padding together with causal attention keeps padding out of every real token's state.

    Attributes:
        width: T, size of a token state.

    Raises:
        ConfigError: the sizes of pretrained weights differ from the configured ones.
        CheckpointError: the weights cannot be had or do not fit.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.width = config.hidden_size
        if config.weights is None or config.weights.endswith(SUFFIX):
            self.model = BioGptModel(_biogpt_config(config))
            if config.weights is not None:
                load_local_weights(self.model, config.weights, "text encoder")
        else:
            self.model = _pretrained(config, config.weights)

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """Token states, shape (B, L, T). Those at padding mean nothing."""
        output = self.model(input_ids=input_ids_BL, attention_mask=attention_mask_BL, use_cache=False)
        return output.last_hidden_state

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        # transformers renamed the methods during version 5.
        prefix = "activation" if hasattr(self.model, "activation_checkpointing_enable") else "gradient"
        if enabled:
            getattr(self.model, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
            # Needed by reentrant checkpointing only, and it would run the backward pass through a frozen encoder too.
            self.model.disable_input_require_grads()
        else:
            getattr(self.model, f"{prefix}_checkpointing_disable")()


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


def _pretrained(config: TextConfig, source: str) -> BioGptModel:
    try:
        model = BioGptModel.from_pretrained(
            source, hidden_dropout_prob=config.dropout, attention_probs_dropout_prob=config.dropout
        )
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"model.text.weights={source}: BioGPT cannot be loaded from it ({reason}); "
            f"give a directory, a hub id or a local {SUFFIX} file"
        ) from error
    found, wanted = model.config, _biogpt_config(config)
    for key, ours in (
        ("vocab_size", "vocabulary_size"),
        ("hidden_size", "hidden_size"),
        ("num_hidden_layers", "layers"),
        ("max_position_embeddings", "max_positions"),
    ):
        if getattr(found, key) != getattr(wanted, key):
            raise ConfigError(
                f"model.text.{ours}={getattr(wanted, key)} but {source} has {getattr(found, key)}; set it to that"
            )
    return model
