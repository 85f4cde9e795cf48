"""Losses over the labels that are known; an unknown one is NaN.

Shape suffixes: B batch, Y labels, C labels of one block.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from medvlmoe.data.labels import LabelBlock, LabelSpace


@dataclass(frozen=True)
class BlockCounts:
    """What a block's mean is taken over.

    Attributes:
        rows: rows that have the block.
        terms: known entries of a multilabel block; rows of a multiclass or ordinal block.
    """

    rows: int
    terms: int


def count_known(labels_BY: Tensor, space: LabelSpace) -> list[BlockCounts]:
    """Counts of every block over a whole batch, before it is cut into micro-batches."""
    counts = []
    for block in space.blocks:
        known_BC = ~labels_BY[:, space.columns(block)].isnan()
        if block.exclusive:
            rows = terms = int(known_BC.all(dim=1).sum())
        else:
            rows, terms = int(known_BC.any(dim=1).sum()), int(known_BC.sum())
        counts.append(BlockCounts(rows, terms))
    return counts


def label_loss(
    logits_BY: Tensor, labels_BY: Tensor, space: LabelSpace, counts: list[BlockCounts], ordinal: str = "cross_entropy"
) -> Tensor:
    """The loss of some rows of a batch, normalised by the whole batch; a float32 scalar (A13).

    A block's loss is the mean of its terms: binary cross-entropy of each known entry (multilabel), cross-entropy of
    each row (multiclass), the chosen loss of each row (ordinal). The total is the mean of the blocks' losses, each
    weighted by the rows that have the block. Summed over the micro-batches of a batch this is the batch's loss.

    Args:
        logits_BY: scores before sigmoid or softmax.
        labels_BY: 0, 1 or NaN; one-hot inside a multiclass or ordinal block.
        space: the blocks of the Y axis.
        counts: :func:`count_known` of the whole batch.
        ordinal: ``cross_entropy`` or ``earth_mover``.
    """
    logits_BY = _at_least_float32(logits_BY)
    total = logits_BY.sum() * 0.0  # without any known label there is still something to differentiate
    all_rows = sum(count.rows for count in counts)
    for block, count in zip(space.blocks, counts, strict=True):
        if count.terms:
            columns = space.columns(block)
            terms = _summed_terms(logits_BY[:, columns], labels_BY[:, columns], block, ordinal)
            total = total + terms * (count.rows / all_rows / count.terms)
    return total


def record_losses(logits_BY: Tensor, labels_BY: Tensor, space: LabelSpace, ordinal: str = "cross_entropy") -> Tensor:
    """The loss of each record as if it were a batch of its own; float32, shape (B,).

    :func:`label_loss` divides by counts of the whole batch, so a record would change the weight of the others.
    """
    logits_BY = _at_least_float32(logits_BY)
    total_B = logits_BY.sum(1) * 0.0
    blocks_B = torch.zeros_like(total_B)
    for block in space.blocks:
        columns = space.columns(block)
        known_BC = ~labels_BY[:, columns].isnan()
        counted_B = known_BC.all(dim=1) if block.exclusive else known_BC.sum(dim=1)
        terms_B = counted_B.to(total_B.dtype)
        entries_B = _row_terms(logits_BY[:, columns], labels_BY[:, columns], block, ordinal)
        total_B = total_B + entries_B / terms_B.clamp(min=1)
        blocks_B = blocks_B + (terms_B > 0)
    return total_B / blocks_B.clamp(min=1)


def _at_least_float32(logits_BY: Tensor) -> Tensor:
    return logits_BY.to(torch.promote_types(logits_BY.dtype, torch.float32))


def _summed_terms(logits_BC: Tensor, labels_BC: Tensor, block: LabelBlock, ordinal: str) -> Tensor:
    return _row_terms(logits_BC, labels_BC, block, ordinal).sum()


def _row_terms(logits_BC: Tensor, labels_BC: Tensor, block: LabelBlock, ordinal: str) -> Tensor:
    """Sum of each row's known terms, shape (B,)."""
    known_BC = ~labels_BC.isnan()
    target_BC = labels_BC.nan_to_num(0.0)
    if not block.exclusive:
        entries_BC = functional.binary_cross_entropy_with_logits(logits_BC, target_BC, reduction="none")
        return torch.where(known_BC, entries_BC, 0.0).sum(dim=1)
    if block.task == "ordinal" and ordinal == "earth_mover":
        # Hou, Yu and Samaras 2016, "Squared earth mover's distance-based loss for training deep neural networks".
        gap_BC = logits_BC.softmax(dim=1).cumsum(dim=1) - target_BC.cumsum(dim=1)
        rows_B = gap_BC.square().sum(dim=1)
    else:
        rows_B = -(target_BC * logits_BC.log_softmax(dim=1)).sum(dim=1)
    return torch.where(known_BC.all(dim=1), rows_B, 0.0)
