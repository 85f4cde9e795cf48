"""What travels, and that the parts which do not are the same at both ends."""

from dataclasses import replace

import pytest
import torch

from medvlmoe.configuration import compose
from medvlmoe.errors import CheckpointError
from medvlmoe.model import (
    FusionConfig,
    LoRAConfig,
    MedVLMoEConfig,
    MoEConfig,
    TextConfig,
    VisionConfig,
    build_frozen_parts,
    build_model,
    empty_model,
)
from medvlmoe.model.groups import parameter_group
from strategies.exchange import exchanged_tensors, frozen_sums, load_exchanged, refuse_other_frozen_parts
from strategies.run_config import RunConfig

CONFIG = MedVLMoEConfig(
    vision=VisionConfig(backbone="test_vit", image_size=32, lora=LoRAConfig(rank=2, targets=["qkv"])),
    text=TextConfig(tokenizer="byte", vocabulary_size=260, hidden_size=16, layers=2, heads=2, feed_forward_size=32,
                    max_positions=64, max_tokens=16, trainable_blocks=0),
    fusion=FusionConfig(dim=16), moe=MoEConfig(experts=4),
)  # fmt: skip


def bytes_of(config: MedVLMoEConfig) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, tensor in exchanged_tensors(empty_model(config, 14)).items():
        group = parameter_group(name)
        counts[group] = counts.get(group, 0) + 4 * tensor.numel()
    return counts


def test_an_update_of_the_adapter_recipe_is_a_thirtieth_of_the_whole_model() -> None:
    recipe = compose(RunConfig, ["model=paper_lora"]).model
    whole, adapted = bytes_of(MedVLMoEConfig()), bytes_of(recipe)
    # Rank 8 beside 24 joined layers 1024 -> 3072, and beside two layers 1024 -> 1024 of 24 layers.
    assert adapted["vision"] == 4 * 24 * 8 * (1024 + 3072)
    assert adapted["text"] == 4 * 24 * 2 * 8 * (1024 + 1024)
    assert {group: adapted[group] for group in whole if group not in ("vision", "text")} == {
        group: whole[group] for group in whole if group not in ("vision", "text")
    }
    assert sum(whole.values()) == 4 * 668_861_968
    assert sum(adapted.values()) == 4 * 20_491_792
    assert 32 < sum(whole.values()) / sum(adapted.values()) < 33


def test_frozen_encoders_leave_72_megabytes() -> None:
    paper = MedVLMoEConfig()
    frozen = replace(
        paper, vision=replace(paper.vision, trainable_blocks=0), text=replace(paper.text, trainable_blocks=0)
    )
    assert {group for group in bytes_of(frozen) if group in ("vision", "text")} == set()
    assert sum(bytes_of(frozen).values()) == 4 * (668_861_968 - 303_179_776 - 346_763_264)


def test_statistics_travel_unless_their_layer_is_frozen() -> None:
    def statistics(trainable_blocks: int | None) -> set[str]:
        vision = VisionConfig(
            backbone="test_resnet", image_size=32, normalisation="batch", trainable_blocks=trainable_blocks
        )
        model = empty_model(replace(CONFIG, vision=vision), 3)
        return {name for name in exchanged_tensors(model) if "running_" in name}

    assert len(statistics(None)) > len(statistics(1)) > len(statistics(0)) == 0
    assert all(".layer4." in name for name in statistics(1))


@pytest.mark.parametrize("take", [False, True])
def test_a_site_without_values_ends_up_with_the_servers_model(take: bool) -> None:
    server = build_model(CONFIG, 3, seed=4)
    site = build_frozen_parts(CONFIG, 3, seed=4)
    refuse_other_frozen_parts(site, sums_of(CONFIG, 4))
    load_exchanged(site, {name: tensor.clone() for name, tensor in exchanged_tensors(server).items()}, take=take)
    ours, theirs = site.state_dict(), server.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_load_refuses_other_names_and_values_that_nobody_sent() -> None:
    received = exchanged_tensors(build_model(CONFIG, 3, seed=4))
    with pytest.raises(CheckpointError, match="never got a value"):
        load_exchanged(empty_model(CONFIG, 3), received)  # its frozen parts are missing
    received.pop("head.bias")
    with pytest.raises(ValueError, match=r"'head.bias' is on one side only"):
        load_exchanged(build_frozen_parts(CONFIG, 3, seed=4), received)


def sums_of(config: MedVLMoEConfig, seed: int) -> dict[str, float]:
    model = build_model(config, 3, seed)
    exchanged = exchanged_tensors(model)
    return frozen_sums({name: tensor for name, tensor in model.state_dict().items() if name not in exchanged})


def test_other_frozen_parts_are_refused_by_their_group() -> None:
    here = build_frozen_parts(CONFIG, 3, seed=4)
    refuse_other_frozen_parts(here, sums_of(CONFIG, 4))
    with pytest.raises(CheckpointError, match="frozen part of 'text' is not the server's"):
        refuse_other_frozen_parts(here, sums_of(CONFIG, 5))
    sums = sums_of(CONFIG, 4)
    with pytest.raises(CheckpointError, match="frozen part of 'vision'"):
        refuse_other_frozen_parts(here, {"text": sums["text"]})
    with torch.no_grad():  # one changed number is seen
        weight = here.text.model.layers[0].fc1.weight
        weight[0, 0] += 0.1
    with pytest.raises(CheckpointError, match="frozen part of 'text'"):
        refuse_other_frozen_parts(here, sums)


def test_nothing_frozen_has_nothing_to_compare() -> None:
    config = replace(CONFIG, vision=replace(CONFIG.vision, lora=LoRAConfig()), text=replace(CONFIG.text,
                     trainable_blocks=None))  # fmt: skip
    assert sums_of(config, 0) == {}
    refuse_other_frozen_parts(empty_model(config, 3), {})
