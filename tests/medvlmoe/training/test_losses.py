import pytest
import torch
import torch.nn.functional as functional

from medvlmoe.data.labels import LabelBlock, LabelSpace
from medvlmoe.training.losses import count_known, label_loss


def whole_loss(logits: torch.Tensor, labels: torch.Tensor, space: LabelSpace, ordinal: str = "cross_entropy"):
    return label_loss(logits, labels, space, count_known(labels, space), ordinal)


def single(task: str, count: int) -> LabelSpace:
    return LabelSpace.of("s", LabelBlock("b", task, tuple(f"b{label}" for label in range(count))))


def test_multilabel_loss_is_the_mean_over_known_entries() -> None:
    logits, labels = torch.randn(5, 4), torch.randint(0, 2, (5, 4)).float()
    labels[0, 1] = labels[3, 2] = labels[4] = torch.nan
    known = ~labels.isnan()
    expected = functional.binary_cross_entropy_with_logits(logits[known], labels[known])
    torch.testing.assert_close(whole_loss(logits, labels, single("multilabel", 4)), expected)


def test_a_soft_target_is_the_mean_of_both_hard_ones_by_its_weight() -> None:
    logits, space = torch.randn(5, 4), single("multilabel", 4)
    soft, positive, negative = (whole_loss(logits, torch.full((5, 4), value), space) for value in (0.7, 1.0, 0.0))
    torch.testing.assert_close(soft, 0.7 * positive + 0.3 * negative)


@pytest.mark.parametrize("task", ["multiclass", "ordinal"])
def test_class_loss_is_the_mean_over_known_rows(task: str) -> None:
    logits, classes = torch.randn(6, 3), torch.randint(0, 3, (6,))
    labels = functional.one_hot(classes, 3).float()
    labels[[1, 4]] = torch.nan
    rows = [0, 2, 3, 5]
    expected = functional.cross_entropy(logits[rows], classes[rows])
    torch.testing.assert_close(whole_loss(logits, labels, single(task, 3)), expected)


def test_blocks_are_weighted_by_their_rows(label_space: LabelSpace, make_dataset) -> None:
    labels, logits = make_dataset(20).labels_NY, torch.randn(20, len(label_space))
    total, rows = 0.0, 0
    for block in label_space.blocks:
        columns = label_space.columns(block)
        has_block = ~labels[:, columns].isnan().all(dim=1)
        alone = whole_loss(logits[has_block][:, columns], labels[has_block][:, columns], LabelSpace.of("a", block))
        total, rows = total + alone * has_block.sum(), rows + int(has_block.sum())
    assert rows == 20
    torch.testing.assert_close(whole_loss(logits, labels, label_space), total / rows)


def test_an_unknown_label_gives_no_gradient(label_space: LabelSpace, make_dataset) -> None:
    labels = make_dataset(9).labels_NY
    logits = torch.randn(9, len(label_space), requires_grad=True)
    whole_loss(logits, labels, label_space).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad != 0, ~labels.isnan())


def test_without_any_label_the_loss_is_zero_and_differentiable(label_space: LabelSpace) -> None:
    logits = torch.randn(3, len(label_space), requires_grad=True)
    loss = whole_loss(logits, torch.full((3, len(label_space)), torch.nan), label_space)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_micro_batches_sum_to_the_batch(label_space: LabelSpace, make_dataset) -> None:
    labels, logits = make_dataset(23).labels_NY, torch.randn(23, len(label_space)).double()
    counts = count_known(labels, label_space)
    for ordinal in ("cross_entropy", "earth_mover"):
        parts = [
            label_loss(logits[part], labels[part], label_space, counts, ordinal)
            for part in (slice(0, 1), slice(1, 10), slice(10, 23))
        ]
        torch.testing.assert_close(sum(parts), label_loss(logits, labels, label_space, counts, ordinal))


def test_earth_mover_costs_more_for_grades_further_off() -> None:
    space, true = single("ordinal", 5), torch.eye(5)[:1]
    sure = [float(whole_loss(30 * torch.eye(5)[[grade]], true, space, "earth_mover")) for grade in range(5)]
    assert sure == pytest.approx([0, 1, 2, 3, 4], abs=1e-4)
    cross = [float(whole_loss(30 * torch.eye(5)[[grade]], true, space)) for grade in range(1, 5)]
    assert cross == pytest.approx([30] * 4, abs=1e-4)


def test_the_loss_is_float32_whatever_the_logits_are(label_space: LabelSpace, make_dataset) -> None:
    logits = torch.randn(8, len(label_space), dtype=torch.bfloat16)
    assert whole_loss(logits, make_dataset(8).labels_NY, label_space).dtype == torch.float32
