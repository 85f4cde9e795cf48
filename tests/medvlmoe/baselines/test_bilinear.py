import math

import pytest
import torch

from medvlmoe.baselines.bilinear import HighOrderFusion, pool_products


def test_pooling_written_out() -> None:
    products = [0.5, 1.5, -3.0, 1.0, 0.25, 0.75]
    sums = [2.0, -2.0, 1.0]
    rooted = [math.copysign(math.sqrt(abs(value)), value) for value in sums]
    length = math.hypot(*rooted)
    found = pool_products(torch.tensor([products]), factors=2)
    assert found[0].tolist() == pytest.approx([value / length for value in rooted], abs=1e-5)


def test_the_slope_is_finite_at_zero() -> None:
    products_BM = torch.tensor([[1.0, -1.0, 2.0, 0.0]], requires_grad=True)
    pool_products(products_BM, 2).sum().backward()
    assert products_BM.grad is not None and products_BM.grad.isfinite().all()


def test_two_blocks_the_second_multiplied_by_the_first() -> None:
    torch.manual_seed(0)
    fusion = HighOrderFusion(3, 4, size=2, factors=5, dropout=0.5).eval()
    x, y = torch.randn(1, 3), torch.randn(1, 4)
    expected = []
    before = [1.0] * 10
    for first, second in zip(fusion.first, fusion.second, strict=True):
        u, v = first(x)[0].tolist(), second(y)[0].tolist()
        before = [a * b * c for a, b, c in zip(u, v, before, strict=True)]
        sums = [sum(before[5 * o : 5 * o + 5]) for o in range(2)]
        rooted = [math.copysign(math.sqrt(abs(value)), value) for value in sums]
        expected += [value / math.hypot(*rooted) for value in rooted]
    assert fusion(x, y)[0].tolist() == pytest.approx(expected, abs=1e-4)
