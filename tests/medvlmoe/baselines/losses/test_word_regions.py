import math

import pytest
import torch

from medvlmoe.baselines.losses import global_match_loss, local_match_loss, word_region_similarity

TEMP1, TEMP2, TEMP3 = 4.0, 5.0, 10.0


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def similarity(regions: list[list[float]], words: list[list[float]]) -> float:
    """Over the words first, then over the regions."""
    over_words = [softmax([dot(region, word) for word in words]) for region in regions]
    total = 0.0
    for number, word in enumerate(words):
        attention = softmax([TEMP1 * row[number] for row in over_words])
        context = [sum(a * region[p] for a, region in zip(attention, regions, strict=True)) for p in range(len(word))]
        total += math.exp(TEMP2 * dot(context, word) / math.hypot(*context) / math.hypot(*word))
    return math.log(total)


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask_BW = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    return torch.randn(3, 5, 4, generator=generator), torch.randn(3, 4, 4, generator=generator), mask_BW


def by_hand(region_BNP: torch.Tensor, word_BWP: torch.Tensor, mask_BW: torch.Tensor) -> list[list[float]]:
    words = [word_BWP[j][mask_BW[j]].tolist() for j in range(3)]
    return [[similarity(region_BNP[i].tolist(), words[j]) for j in range(3)] for i in range(3)]


def both_directions(table: list[list[float]]) -> float:
    rows = sum(-math.log(softmax(table[i])[i]) for i in range(3)) / 3
    columns = sum(-math.log(softmax([table[k][i] for k in range(3)])[i]) for i in range(3)) / 3
    return rows + columns


def test_similarity_written_out(case: tuple[torch.Tensor, ...]) -> None:
    found = word_region_similarity(*case, TEMP1, TEMP2)
    assert torch.allclose(found, torch.tensor(by_hand(*case)), atol=1e-5)


def test_local_loss_written_out(case: tuple[torch.Tensor, ...]) -> None:
    table = [[TEMP3 * value for value in row] for row in by_hand(*case)]
    assert float(local_match_loss(*case, TEMP1, TEMP2, TEMP3)) == pytest.approx(both_directions(table), rel=1e-4)


def test_the_order_of_the_two_softmaxes_matters(case: tuple[torch.Tensor, ...]) -> None:
    region_BNP, word_BWP, mask_BW = case
    product = torch.einsum("np,wp->nw", region_BNP[0], word_BWP[0])
    other_way = (TEMP1 * product.softmax(0)).softmax(0)  # regions first: another attention
    right_way = (TEMP1 * product.softmax(1)).softmax(0)
    assert not torch.allclose(other_way, right_way, atol=1e-2)
    context_WP = right_way.T @ region_BNP[0]
    cosine_W = torch.nn.functional.cosine_similarity(context_WP, word_BWP[0], dim=-1)
    found = word_region_similarity(region_BNP[:1], word_BWP[:1], mask_BW[:1], TEMP1, TEMP2)
    assert torch.allclose(found[0, 0], (TEMP2 * cosine_W).logsumexp(0), atol=1e-5)


def test_padding_changes_nothing(case: tuple[torch.Tensor, ...]) -> None:
    region_BNP, word_BWP, mask_BW = case
    filled = word_BWP.masked_fill(~mask_BW.unsqueeze(-1), 100.0)
    assert torch.equal(
        word_region_similarity(region_BNP, word_BWP, mask_BW), word_region_similarity(region_BNP, filled, mask_BW)
    )


def test_global_loss_written_out() -> None:
    images, texts = [[1.0, 2.0], [0.5, -1.0], [3.0, 0.1]], [[0.2, 1.0], [1.0, -0.5], [-1.0, 0.3]]
    table = [[TEMP3 * dot(a, b) / math.hypot(*a) / math.hypot(*b) for b in texts] for a in images]
    found = global_match_loss(torch.tensor(images), torch.tensor(texts), TEMP3)
    assert float(found) == pytest.approx(both_directions(table), rel=1e-5)


def test_no_gradient_is_lost_or_infinite_at_padding(case: tuple[torch.Tensor, ...]) -> None:
    region_BNP, word_BWP = case[0].requires_grad_(), case[1].requires_grad_()
    local_match_loss(region_BNP, word_BWP, case[2]).backward()
    assert region_BNP.grad is not None and word_BWP.grad is not None
    assert region_BNP.grad.isfinite().all() and word_BWP.grad.isfinite().all()
    assert (word_BWP.grad[~case[2]] == 0).all() and (region_BNP.grad.abs().sum(-1) > 0).all()
