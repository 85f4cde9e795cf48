import math

import pytest
import torch

from medvlmoe.baselines.losses import mask_tokens, masked_language_loss, next_token_loss


def test_masking_in_the_published_proportions() -> None:
    torch.manual_seed(0)
    ids_BL = torch.randint(10, 1000, (200, 101))
    mask_BL = torch.ones_like(ids_BL)
    mask_BL[:, 90:] = 0
    seen_BL, targets_BL = mask_tokens(ids_BL, mask_BL, 0.15, mask_token=3, vocabulary_size=1000)
    chosen_BL = targets_BL != -100
    assert not chosen_BL[:, 0].any() and not chosen_BL[:, 90:].any()
    assert float(chosen_BL[:, 1:90].float().mean()) == pytest.approx(0.15, abs=0.01)
    assert torch.equal(targets_BL[chosen_BL], ids_BL[chosen_BL]) and torch.equal(
        seen_BL[~chosen_BL], ids_BL[~chosen_BL]
    )
    assert float((seen_BL[chosen_BL] == 3).float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((seen_BL[chosen_BL] == ids_BL[chosen_BL]).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_only_hidden_tokens_count() -> None:
    logits_BLW = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]]))
    targets_BL = torch.tensor([[0, -100, 2]])
    assert float(masked_language_loss(logits_BLW, targets_BL)) == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 2)
    assert float(masked_language_loss(logits_BLW, torch.full_like(targets_BL, -100))) == 0.0


def test_the_next_token_is_what_is_predicted() -> None:
    logits_BLW = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]]))
    loss = next_token_loss(logits_BLW, torch.tensor([[0, 1, 2]]), torch.tensor([[1, 1, 0]]))
    assert float(loss) == pytest.approx(-math.log(0.25))  # token 1 after token 0; the third is padding
