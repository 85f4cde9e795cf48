from collections import Counter

import pytest
import torch

from medvlmoe.model import MedVLMoE, MedVLMoEConfig, MoEConfig, build_image_classifier
from medvlmoe.model.groups import expert_index, group_names, parameter_group, rows_of

# Parts of the paper's model with 14 labels, counted from its description.
PROJECTIONS = 2 * (1024 * 512 + 512)
POSITIONS = 257 * 512 + 256 * 512
CROSS_ATTENTION = 3 * 512 * 512
LAYER_NORMS = 2 * 2 * 512
GATE = 1024 * 2 + 2
EXPERT = 2 * (1024 * 1024 + 1024)
PAPER_SIZES = {
    "vision": 303_179_776,
    "text": 346_763_264,
    "fusion": PROJECTIONS + POSITIONS + CROSS_ATTENTION + LAYER_NORMS + GATE,
    "router": 8_192,
    **{f"expert.{k}": EXPERT for k in range(8)},
    "head": 14_350,
}


def sizes(config: MedVLMoEConfig) -> Counter[str]:
    with torch.device("meta"):
        model = MedVLMoE(config, label_count=14)
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[parameter_group(name)] += parameter.numel()
    return counts


def test_paper_model_has_the_size_of_its_parts() -> None:
    counts = sizes(MedVLMoEConfig())
    assert counts == PAPER_SIZES
    assert counts.total() == 668_861_968
    assert list(counts) == list(group_names(8))


def test_paper_model_with_wide_experts() -> None:
    assert sizes(MedVLMoEConfig(moe=MoEConfig(hidden_size=4096))).total() == 719_218_192


def test_yardstick_is_vision_and_head() -> None:
    model = build_image_classifier("test_resnet", 3, seed=0)
    assert {parameter_group(name) for name, _ in model.named_parameters()} == {"vision", "head"}


def test_rows_belong_to_experts_and_labels() -> None:
    assert rows_of(parameter_group("moe.router.weight")) == "experts"
    assert rows_of(parameter_group("head.bias")) == "labels"
    assert rows_of("expert.3") is None


def test_expert_of_a_group() -> None:
    assert expert_index(parameter_group("moe.experts.12.0.weight")) == 12
    assert expert_index("router") is None


@pytest.mark.parametrize(
    "name", ["", "vision", "decoder.weight", "moe.gate.weight", "moe.experts.x.0.weight", "headless.w"]
)
def test_unknown_name_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="belongs to no group"):
        parameter_group(name)
