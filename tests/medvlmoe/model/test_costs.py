"""Operations counted by hand."""

import pytest
import torch
from torch import nn

from medvlmoe.data.batch import Batch
from medvlmoe.model import FusionConfig, MedVLMoEConfig, MoEConfig, TextConfig, VisionConfig, build_model
from medvlmoe.model.costs import measure_cost, parameters_by_group
from medvlmoe.model.fusion import CrossAttention
from medvlmoe.model.output import MedVLMoEOutput


def sample(length: int, size: int = 32) -> Batch:
    words = torch.full((1, length), 5)
    return Batch(torch.randn(1, 3, size, size), words, torch.ones_like(words), torch.zeros(1, 3), ["p"], ["s"])


class Attends(nn.Module):
    """Queries from 4 image tokens, keys and values from the text."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = CrossAttention(8)

    def forward(self, image_BCHW, input_ids_BL, attention_mask_BL):
        text = torch.ones(1, input_ids_BL.shape[1], 8)
        return MedVLMoEOutput(self.fusion(torch.ones(1, 4, 8), text, attention_mask_BL), torch.zeros(()))


def test_attention_is_counted_as_its_matrix_products() -> None:
    length = 10
    projections = 2 * 8 * 8 * (4 + 2 * length)
    attention = 2 * (4 * length * 8) * 2  # queries by keys, then weights by values
    assert measure_cost(Attends(), [sample(length)]).flops == projections + attention


def model(**moe: object):
    config = MedVLMoEConfig(
        vision=VisionConfig(backbone="test_resnet", image_size=32, output_stride=8),
        text=TextConfig(tokenizer="byte", max_tokens=32, vocabulary_size=260, hidden_size=16, layers=1, heads=2,
                        feed_forward_size=16, max_positions=64),
        fusion=FusionConfig(dim=8, max_text_positions=32),
        moe=MoEConfig(**{"experts": 4, **moe}),  # type: ignore[arg-type]
    )  # fmt: skip
    return build_model(config, 3, seed=0)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_active_are_those_outside_and_the_chosen_experts(top_k: int) -> None:
    one = model(top_k=top_k)
    groups = parameters_by_group(one)
    expert = 2 * (16 * 16 + 16)
    assert groups["expert.0"] == expert
    cost = measure_cost(one, [sample(5), sample(9)])
    assert cost.parameters == cost.trainable == sum(p.numel() for p in one.parameters())
    assert cost.active == cost.parameters - (4 - top_k) * expert


def test_an_expert_more_is_its_two_matrix_products_more() -> None:
    rows = [sample(5), sample(9)]
    costs = [measure_cost(model(top_k=top_k), rows) for top_k in (1, 2, 3)]
    assert costs[1].flops - costs[0].flops == costs[2].flops - costs[1].flops == 2 * 2 * 16 * 16


def test_the_model_is_left_as_it_was() -> None:
    one = model().train()
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    measure_cost(one, [sample(5)])
    assert one.training and one.moe.training and one.routed_samples().sum() == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())
