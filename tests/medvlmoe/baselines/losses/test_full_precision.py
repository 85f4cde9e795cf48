"""Autocast leaves the losses alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medvlmoe.baselines.losses import contrastive_loss, global_match_loss, local_match_loss, soft_target_loss

CLOSE = 1 + 1e-4 * torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
OTHERS = 1 + 1e-4 * torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.eye(6)
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "contrastive": lambda image: contrastive_loss(image, OTHERS, 0.01),
    "soft targets": lambda image: soft_target_loss(image, OTHERS, LABELS, LABELS, 100.0),
    "global match": lambda image: global_match_loss(image, OTHERS, 100.0),
    "local match": lambda image: local_match_loss(
        image.unsqueeze(1).expand(6, 3, 32), OTHERS.unsqueeze(1).expand(6, 2, 32), torch.ones(6, 2)
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_are_those_of_float32(name: str) -> None:
    results = []
    for enabled in (False, True):
        image = CLOSE.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = LOSSES[name](image)
        loss.backward()
        results.append((loss.detach(), image.grad))
    (plain, plain_gradient), (cast, cast_gradient) = results
    assert cast.dtype == torch.float32 and torch.equal(cast, plain)
    assert plain_gradient is not None and cast_gradient is not None and torch.equal(cast_gradient, plain_gradient)
