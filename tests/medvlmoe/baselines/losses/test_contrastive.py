import math

import pytest
import torch

from medvlmoe.baselines.losses import contrastive_loss


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


@pytest.mark.parametrize("image_weight", [0.75, 0.5, 0.0, 1.0])
def test_the_formula_written_out(image_weight: float) -> None:
    images = [[1.0, 2.0], [0.5, -1.0], [3.0, 0.1]]
    texts = [[0.2, 1.0], [1.0, -0.5], [-1.0, 0.3]]
    tau, expected = 0.1, 0.0
    for i in range(3):
        among_texts = [math.exp(cosine(images[i], texts[k]) / tau) for k in range(3)]
        among_images = [math.exp(cosine(images[k], texts[i]) / tau) for k in range(3)]
        expected -= image_weight * math.log(among_texts[i] / sum(among_texts)) / 3
        expected -= (1 - image_weight) * math.log(among_images[i] / sum(among_images)) / 3
    found = contrastive_loss(torch.tensor(images), torch.tensor(texts), tau, image_weight)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_exchanging_images_and_texts_exchanges_the_directions() -> None:
    image_BP, text_BP = torch.randn(5, 4), torch.randn(5, 4)
    there = contrastive_loss(image_BP, text_BP, 0.2, 0.75)
    assert torch.allclose(there, contrastive_loss(text_BP, image_BP, 0.2, 0.25))
    assert not torch.allclose(there, contrastive_loss(text_BP, image_BP, 0.2, 0.75))


def test_lengths_of_the_vectors_do_not_matter() -> None:
    image_BP, text_BP = torch.randn(5, 4), torch.randn(5, 4)
    assert torch.allclose(contrastive_loss(image_BP, text_BP, 0.2), contrastive_loss(7 * image_BP, text_BP / 9, 0.2))
