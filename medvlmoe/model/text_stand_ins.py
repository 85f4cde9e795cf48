"""What stands in the place of BioGPT in ablations (reading A19).

Shapes: B batch, L text tokens, T width of a token state.
"""

import torch
from torch import Tensor, nn

from medvlmoe.model.config import TextConfig

_SCALE = 0.02  # as BioGPT draws its embeddings


class EmbeddingBag(nn.Module):
    """A learned vector for each token number. Pooled by their mean, a text is the bag of its words."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.vocabulary_size, config.hidden_size)
        nn.init.normal_(self.table.weight, std=_SCALE)

    def forward(self, input_ids_BL: Tensor) -> Tensor:
        """Token states, shape (B, L, T)."""
        return self.table(input_ids_BL)


class NullToken(nn.Module):
    """One learned vector for every token of every text."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.vector = nn.Parameter(_SCALE * torch.randn(config.hidden_size))

    def forward(self, input_ids_BL: Tensor) -> Tensor:
        """Token states, shape (B, L, T), all alike."""
        # A copy, not a view: without gradients a view of a parameter still says that it needs one.
        return self.vector.repeat(*input_ids_BL.shape, 1)
