"""A baseline from its configuration."""

from dataclasses import replace

import torch
from torch import nn

from medvlmoe.baselines.biobert_vqa import BioBERTVQA
from medvlmoe.baselines.biovil import BioViL
from medvlmoe.baselines.clip_med import ClipMed
from medvlmoe.baselines.config import BaselineConfig
from medvlmoe.baselines.contrastive import ContrastiveBaseline
from medvlmoe.baselines.convirt import ConVIRT
from medvlmoe.baselines.gloria import GLoRIA
from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.model.memory import without_memory
from medvlmoe.seeds import derive_seed

_METHODS: dict[str, type[ContrastiveBaseline] | type[BioBERTVQA]] = {
    "convirt": ConVIRT,
    "gloria": GLoRIA,
    "biovil": BioViL,
    "clip_med": ClipMed,
    "biobert_vqa": BioBERTVQA,
}


def build_baseline(
    config: BaselineConfig, model: MedVLMoEConfig, label_count: int, seed: int
) -> ContrastiveBaseline | BioBERTVQA:
    """A baseline before stage A; its random initial weights depend on the configuration and ``seed`` only.

    The global random state is as before afterwards.

    Args:
        config: the baseline.
        model: MedVLMoE's configuration: image size, tokenizer, and the encoders of ``backbone=shared``.
        label_count: Y, rows of the head.
        seed: of the initial weights.

    Raises:
        ConfigError: an encoder cannot be built as configured.
        CheckpointError: an encoder's weights cannot be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "model"))
        return _METHODS[config.name](config, model, label_count)


def empty_baseline(config: BaselineConfig, model: MedVLMoEConfig, label_count: int) -> ContrastiveBaseline | BioBERTVQA:
    """A baseline whose parameters have no values yet; no weights file is read. For whoever has all the values.

    Args:
        config: the baseline.
        model: MedVLMoE's configuration, as for :func:`build_baseline`.
        label_count: Y, rows of the head.
    """
    bare = replace(
        config, image=replace(config.image, weights=None), text=replace(config.text, weights=None, frozen_layers=0)
    )
    shared = replace(model, vision=replace(model.vision, weights=None), text=replace(model.text, weights=None))
    return without_memory(lambda: _METHODS[config.name](bare, shared, label_count))


def freeze_encoders(model: nn.Module) -> None:
    """For ``fine_tune=linear``: stage B trains the head alone (and a fusion, if predictions pass through one)."""
    for part in ("vision", "text"):
        model.get_submodule(part).requires_grad_(False)
