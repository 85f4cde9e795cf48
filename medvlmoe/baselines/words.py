"""Tokens to words: pieces of one word count as one. Shapes: B texts, L tokens, W words, T width, U vocabulary."""

import torch
from torch import Tensor, nn

from medvlmoe.data.tokenizer import Tokenizer


class WordPieces(nn.Module):
    """Knows where words begin and adds up the states of their pieces.

    Args:
        tokenizer: tells for each token whether it begins and whether it ends a word.
    """

    begins_U: Tensor
    ends_U: Tensor

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        begins, ends = tokenizer.word_bounds()
        self.register_buffer("begins_U", begins, persistent=False)
        self.register_buffer("ends_U", ends, persistent=False)

    def word_of_token(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """Number of the word of each token, shape (B, L); -1 for padding and for the token that opens every text.

        A text of nothing but that token has it as its one word.
        """
        begins_BL, ends_BL = self.begins_U[input_ids_BL], self.ends_U[input_ids_BL]
        begins_BL[:, 1:] |= ends_BL[:, :-1]
        begins_BL[:, :2] = torch.tensor([False, True], device=begins_BL.device)[: begins_BL.shape[1]]
        word_BL = begins_BL.long().cumsum(1) - 1
        word_BL = word_BL.masked_fill(~attention_mask_BL.bool(), -1)
        only_opening_B = attention_mask_BL.sum(1) <= 1
        word_BL[only_opening_B, 0] = 0
        return word_BL

    def forward(self, states_BLT: Tensor, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """States of words, shape (B, W, T), each the sum of its pieces' states, and which of the W there are (B, W)."""
        word_BL = self.word_of_token(input_ids_BL, attention_mask_BL)
        count_B = word_BL.amax(1) + 1
        numbers_W = torch.arange(int(count_B.max()), device=word_BL.device)
        member_BWL = (word_BL.unsqueeze(1) == numbers_W[:, None]).to(states_BLT.dtype)
        # A product, not a sum over gathered rows: deterministic on every device. States at padding are finite.
        return member_BWL @ states_BLT, numbers_W < count_B.unsqueeze(1)
