"""Models without memory: filled they equal the ones built as always; unfilled they cannot be used."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import CheckpointError
from medvlmoe.model import (
    FusionConfig,
    LoRAConfig,
    MedVLMoE,
    MedVLMoEConfig,
    MoEConfig,
    TextConfig,
    VisionConfig,
    build_frozen_parts,
    build_model,
    empty_model,
)
from medvlmoe.model.memory import fill, finish_filling, without_memory
from medvlmoe.training import Trainer
from medvlmoe.training.config import TrainingConfig

TEXT = TextConfig(tokenizer="byte", vocabulary_size=260, hidden_size=16, layers=2, heads=2, feed_forward_size=32,
                  max_positions=64, max_tokens=16)  # fmt: skip
CONFIG = MedVLMoEConfig(
    vision=VisionConfig(backbone="test_vit", image_size=32), text=TEXT, fusion=FusionConfig(dim=16),
    moe=MoEConfig(experts=4),
)  # fmt: skip
LORA = replace(
    CONFIG,
    vision=replace(CONFIG.vision, lora=LoRAConfig(rank=2, targets=["qkv"])),
    text=replace(TEXT, lora=LoRAConfig(rank=2, targets=["q_proj"])),
)
# Backbones whose own buffers must be computed, not left to chance: indices, statistics, masks.
CONFIGS = {
    "vit": CONFIG,
    "lora": LORA,
    "batch": replace(CONFIG, vision=VisionConfig(backbone="test_resnet", image_size=64, normalisation="batch")),
    "group": replace(CONFIG, vision=VisionConfig(backbone="test_resnet", image_size=64)),
    "swin": replace(CONFIG, vision=VisionConfig(backbone="swin_tiny_patch4_window7_224", image_size=64)),
    "rotary": replace(CONFIG, vision=VisionConfig(backbone="eva02_tiny_patch14_224", image_size=28)),
    "cannot": replace(CONFIG, vision=VisionConfig(backbone="swinv2_cr_tiny_ns_224", image_size=64)),
    "volume": replace(CONFIG, vision=VisionConfig(backbone="vit3d", image_size=16, depth=8)),
}


def inputs(config: MedVLMoEConfig) -> tuple[Tensor, Tensor, Tensor]:
    slices = () if config.vision.depth is None else (config.vision.depth,)
    size = config.vision.image_size
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, *slices, size, size, generator=generator)
    ids = torch.randint(4, 260, (2, 7), generator=generator)
    return image, ids, torch.ones_like(ids)


class Decoded(dict[str, Tensor]):
    """Tensors that are made anew each time they are asked for, as those of a message."""

    def __getitem__(self, name: str) -> Tensor:
        return super().__getitem__(name).clone()

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("take", [False, True])
def test_empty_and_filled_equals_built(name: str, take: bool) -> None:
    config = CONFIGS[name]
    built = build_model(config, 3, seed=1).eval()
    for name, buffer in built.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(0.5)  # statistics that have moved
    filled = empty_model(config, 3).eval()
    fill(filled, Decoded(built.state_dict()), take=take)
    finish_filling(filled)
    for one, other in ((built.named_parameters(), filled.named_parameters()),
                       (built.named_buffers(), filled.named_buffers())):  # fmt: skip
        ours, theirs = dict(one), dict(other)
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert [tensor.requires_grad for tensor in ours.values()] == [t.requires_grad for t in theirs.values()]
    assert torch.equal(built(*inputs(config)).logits_BY, filled(*inputs(config)).logits_BY)


def test_paper_model_takes_no_memory_and_has_all_parameters() -> None:
    model = empty_model(MedVLMoEConfig(), 14)
    assert sum(parameter.numel() for parameter in model.parameters()) == 668_861_968
    assert all(parameter.is_meta for parameter in model.parameters())


def test_no_random_numbers_are_drawn() -> None:
    torch.manual_seed(4)
    state = torch.random.get_rng_state()
    empty_model(CONFIG, 3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_with_a_value_missing_is_refused_by_the_trainer() -> None:
    model = empty_model(CONFIG, 3)
    state = build_model(CONFIG, 3, seed=0).state_dict()
    del state["text.model.layers.1.fc1.weight"]
    fill(model, state)
    with pytest.raises(
        CheckpointError, match=r"1 tensors of the model never got a value \(text.model.layers.1.fc1.weight\)"
    ):
        finish_filling(model)
    with pytest.raises(NotImplementedError):
        Trainer(model, TrainingConfig(), LabelSpace.single("test", "multilabel", ["a", "b", "c"]), seed=0)


def test_filling_refuses_other_shapes_and_unknown_names() -> None:
    layer = without_memory(lambda: nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"'weight' has shape \(2, 2\), not \(2, 3\)"):
        fill(layer, {"weight": torch.ones(2, 2)})
    with pytest.raises(KeyError, match="other"):
        fill(layer, {"other": torch.ones(2, 3)})


def test_copied_values_are_not_shared_and_taken_ones_are() -> None:
    for take in (False, True):
        layer = without_memory(lambda: nn.Linear(3, 2, bias=False))
        value = torch.ones(2, 3)
        fill(layer, {"weight": value}, take=take)
        value.zero_()
        assert bool(layer.weight.any()) is not take


def test_values_of_another_number_format_are_converted() -> None:
    layer = without_memory(lambda: nn.Linear(3, 2, bias=False))
    fill(layer, {"weight": torch.ones(2, 3, dtype=torch.bfloat16)}, take=True)
    assert layer.weight.dtype == torch.float32


def frozen_from_file(folder: Path) -> MedVLMoEConfig:
    """Adapters on an image encoder from a file; the text encoder learns as a whole and its file is not here."""
    path = folder / "vision.safetensors"
    if not path.exists():
        save_file(build_model(CONFIG, 3, seed=9).vision.backbone.state_dict(), path)
    vision = replace(LORA.vision, weights=str(path))
    return replace(CONFIG, vision=vision, text=replace(TEXT, weights=str(folder / "absent.safetensors")))


def check_frozen_parts(config: MedVLMoEConfig, whole: MedVLMoE, seed: int) -> None:
    parts = build_frozen_parts(config, 3, seed)
    learning = {name for name, parameter in whole.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, parameter in parts.named_parameters() if parameter.requires_grad}
    for (name, ours), theirs in zip(parts.named_parameters(), whole.parameters(), strict=True):
        assert name in learning or torch.equal(ours, theirs)
    fill(parts, {name: parameter for name, parameter in whole.named_parameters() if name in learning})
    finish_filling(parts)
    assert torch.equal(parts.eval()(*inputs(config)).logits_BY, whole.eval()(*inputs(config)).logits_BY)


@pytest.mark.parametrize("config", [LORA, replace(CONFIG, text=replace(TEXT, trainable_blocks=1)), CONFIG])
def test_frozen_parts_at_random_are_those_of_the_whole_model(config: MedVLMoEConfig) -> None:
    check_frozen_parts(config, build_model(config, 3, seed=2), 2)


def test_frozen_parts_from_a_file_and_no_file_for_what_learns(tmp_path: Path) -> None:
    config = frozen_from_file(tmp_path)
    whole = build_model(replace(config, text=TEXT), 3, seed=2)
    check_frozen_parts(config, whole, 2)
    waiting = build_frozen_parts(config, 3, 2)
    assert all(parameter.is_meta for parameter in waiting.text.parameters())
    assert not any(parameter.is_meta for parameter in waiting.vision.parameters() if not parameter.requires_grad)
