"""Factorised bilinear fusion of two vectors. Shapes: B batch, X Y widths of the two, O fused width, K factors."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


def pool_products(products_BM: Tensor, factors: int) -> Tensor:
    """Sum of each ``factors`` products in a row, signed square root, length 1; shape (B, M / factors).

    Yu et al. 2017, "Multi-modal factorized bilinear pooling" (arXiv 1708.01471), section 3.
    """
    pooled_BO = products_BM.unflatten(-1, (-1, factors)).sum(-1)
    # relu(x) and relu(-x) apart: the square root's slope at exactly 0 would be infinite.
    rooted_BO = (pooled_BO.relu() + _SMALLEST).sqrt() - ((-pooled_BO).relu() + _SMALLEST).sqrt()
    return normalize(rooted_BO, dim=-1)


_SMALLEST = 1e-12


class HighOrderFusion(nn.Module):
    """MFH: two bilinear blocks, the second multiplied by the first's products; their results side by side (B, 2 O).

    Yu et al. 2018, "Beyond bilinear" (arXiv 1708.03619), equations 12 to 14.
    """

    def __init__(self, first_width: int, second_width: int, size: int, factors: int, dropout: float) -> None:
        super().__init__()
        self.factors = factors
        expanded = size * factors
        self.first = nn.ModuleList(nn.Linear(first_width, expanded) for _ in range(2))
        self.second = nn.ModuleList(nn.Linear(second_width, expanded) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, first_BX: Tensor, second_BY: Tensor) -> Tensor:
        """The fused vector."""
        before: Tensor | float = 1.0
        blocks = []
        for first, second in zip(self.first, self.second, strict=True):
            products_BM = self.dropout(first(first_BX) * second(second_BY)) * before
            blocks.append(pool_products(products_BM, self.factors))
            before = products_BM
        return torch.cat(blocks, dim=-1)
