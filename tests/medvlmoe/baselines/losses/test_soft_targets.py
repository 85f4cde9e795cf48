import math

import pytest
import torch

from medvlmoe.baselines.losses import soft_target_loss
from medvlmoe.baselines.losses.soft_targets import signed_labels


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def test_the_formula_written_out_with_more_texts_than_images() -> None:
    images, texts = [[1.0, 2.0], [0.5, -1.0]], [[0.2, 1.0], [1.0, -0.5], [-1.0, 0.3]]
    image_labels, text_labels = [[1, -1, 0], [1, 1, -1]], [[1, 0, 0], [-1, 1, 1], [1, 1, -1]]
    scale = 3.0

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    logits = [[scale * cosine(a, b) for b in texts] for a in images]
    scores = [[float(sum(x * y for x, y in zip(a, b, strict=True))) for b in text_labels] for a in image_labels]
    rows = 0.0
    for i in range(2):
        target, found = softmax(scores[i]), softmax(logits[i])
        rows -= sum(t * math.log(f) for t, f in zip(target, found, strict=True)) / 2
    columns = 0.0
    for j in range(3):
        target, found = softmax([scores[i][j] for i in range(2)]), softmax([logits[i][j] for i in range(2)])
        columns -= sum(t * math.log(f) for t, f in zip(target, found, strict=True)) / 3
    got = soft_target_loss(
        torch.tensor(images), torch.tensor(texts), torch.tensor(image_labels), torch.tensor(text_labels), scale
    )
    assert float(got) == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_records_with_equal_labels_are_no_negatives_of_each_other() -> None:
    labels_BY = torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]) * 4  # far apart: nearly hard targets
    vector = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    together = soft_target_loss(vector, vector, labels_BY, labels_BY, 10.0)
    assert together < soft_target_loss(apart, apart, labels_BY, labels_BY, 10.0)


def test_signs_of_labels() -> None:
    found = signed_labels(torch.tensor([1.0, 0.0, torch.nan, 0.5]))
    assert found.tolist() == [1.0, -1.0, 0.0, 0.0]
