"""Language modelling beside the contrastive loss. Shapes: B texts, L tokens, W words of the vocabulary."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

_IGNORED = -100


def mask_tokens(
    input_ids_BL: Tensor, attention_mask_BL: Tensor, share: float, mask_token: int, vocabulary_size: int
) -> tuple[Tensor, Tensor]:
    """Hide some tokens (Devlin et al. 2019, section 3.1).

    Of the tokens after the first, a random ``share`` is to be predicted; 80 % of these become the mask token, 10 % a
    random token, 10 % stay. Draws from the global random stream.

    Returns:
        Token ids with holes, and the targets: the hidden token where one is to be predicted, -100 elsewhere.
    """
    predicted_BL = (torch.rand(input_ids_BL.shape, device=input_ids_BL.device) < share) & attention_mask_BL.bool()
    predicted_BL[:, 0] = False
    how_BL = torch.rand(input_ids_BL.shape, device=input_ids_BL.device)
    random_BL = torch.randint_like(input_ids_BL, vocabulary_size)
    seen_BL = torch.where(predicted_BL & (how_BL < 0.8), mask_token, input_ids_BL)
    seen_BL = torch.where(predicted_BL & (how_BL >= 0.9), random_BL, seen_BL)
    return seen_BL, torch.where(predicted_BL, input_ids_BL, _IGNORED)


def masked_language_loss(logits_BLW: Tensor, targets_BL: Tensor) -> Tensor:
    """Mean cross-entropy of the hidden tokens; 0 where none is hidden."""
    if not (targets_BL != _IGNORED).any():
        return logits_BLW.float().sum() * 0.0
    return cross_entropy(logits_BLW.float().flatten(0, 1), targets_BL.flatten(), ignore_index=_IGNORED)


def next_token_loss(logits_BLW: Tensor, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
    """Mean cross-entropy of each token given those before it: what a causal encoder such as BioGPT is trained with."""
    targets_BL = torch.where(attention_mask_BL.bool(), input_ids_BL, _IGNORED)
    return masked_language_loss(logits_BLW[:, :-1], targets_BL[:, 1:])
