"""The text encoder of the published baselines: BERT. Shapes: B batch, L text tokens, T width of a token state."""

from pathlib import Path

from torch import Tensor, nn

from medvlmoe.baselines.config import BertConfig
from medvlmoe.data.tokenizer import PAD
from medvlmoe.errors import ConfigError
from medvlmoe.model.config import TextConfig
from medvlmoe.model.memory import without_memory
from medvlmoe.model.recomputation import recompute_activations
from medvlmoe.model.trainable import evaluate_frozen_modules
from medvlmoe.model.weights import find_weights, load_exactly, read_weights

_PREFIX = "bert."
_HEADS = ("cls.", "pooler.", "classifier.")
_BUFFERS = ("embeddings.position_ids",)
_OLD_NAMES = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))


class BertText(nn.Module):
    """Token numbers, padded on the right, to the states of every layer.

    Args:
        config: sizes and weights.
        vocabulary: the model's text configuration, for the rows of the embedding table.
        extra_tokens: tokens that are put before a text, of which there are positions too.

    Attributes:
        width: T.

    Raises:
        ConfigError: the position table is shorter than the texts.
        CheckpointError: the weights cannot be read or are not those of a BERT of these sizes.
    """

    def __init__(self, config: BertConfig, vocabulary: TextConfig, extra_tokens: int = 0) -> None:
        super().__init__()
        longest = vocabulary.max_tokens + extra_tokens
        if longest > config.max_positions:
            raise ConfigError(
                f"baseline.text.max_positions={config.max_positions}: texts have up to {longest} tokens; raise it or "
                "lower model.text.max_tokens"
            )
        # Half a second to import, and most runs have no BERT.
        from transformers.models.bert.configuration_bert import BertConfig as TransformersBertConfig
        from transformers.models.bert.modeling_bert import BertModel

        self.width = config.hidden_size
        sizes = TransformersBertConfig(
            vocab_size=vocabulary.vocabulary_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.feed_forward_size,
            max_position_embeddings=config.max_positions,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            pad_token_id=PAD,
        )
        if config.weights is None:
            self.model = BertModel(sizes, add_pooling_layer=False)
        else:
            self.model = without_memory(lambda: BertModel(sizes, add_pooling_layer=False))
            _load(self.model, Path(config.weights).expanduser())
            self._freeze(config.frozen_layers)

    def hidden_states(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> tuple[Tensor, ...]:
        """Embeddings, then the states after each layer, each of shape (B, L, T)."""
        output = self.model(input_ids=input_ids_BL, attention_mask=attention_mask_BL, output_hidden_states=True)
        return output.hidden_states

    @property
    def embedding(self) -> Tensor:
        """The table of word embeddings, shape (vocabulary, T)."""
        return self.model.get_input_embeddings().weight

    def train(self, mode: bool = True) -> "BertText":
        """Training mode for what learns, evaluation mode for what is frozen."""
        super().train(mode)
        evaluate_frozen_modules(self)
        return self

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        recompute_activations(self.model, enabled)

    def _freeze(self, layers: int) -> None:
        for module in (self.model.embeddings, *self.model.encoder.layer[:layers]) if layers else ():
            module.requires_grad_(False)


def _load(model: nn.Module, path: Path) -> None:
    tensors = {}
    for name, tensor in read_weights(find_weights(path, "baseline.text.weights")).items():
        name = name.removeprefix(_PREFIX)
        for old, new in _OLD_NAMES:
            name = name.replace(old, new)
        if not name.startswith((*_HEADS, *_BUFFERS)):
            tensors[name] = tensor
    load_exactly(model, tensors, path, "text encoder of the baseline")
