"""The whole model.

Shapes: B batch, C H W image channels, height, width, L text tokens, N image tokens, F fused width 2d, K experts,
Y labels.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.model.fusion import Fusion
from medvlmoe.model.memory import without_memory
from medvlmoe.model.moe import SparseMoE
from medvlmoe.model.output import MedVLMoEOutput
from medvlmoe.model.text import TextEncoder
from medvlmoe.model.upcycling import upcycle
from medvlmoe.model.vision import VisionEncoder
from medvlmoe.model.vision_only import VisionOnly
from medvlmoe.seeds import derive_seed


class MedVLMoE(nn.Module):
    """Two encoders, cross-modal fusion, sparse experts and a multi-label head (paper, section 3).

    The names of the five parts decide a parameter's group, see :mod:`medvlmoe.model.groups`.

    Args:
        config: the model; its defaults are the paper's.
        label_count: Y, rows of the head.

    Raises:
        ConfigError: an encoder cannot be built as configured.
        CheckpointError: an encoder's weights cannot be had or do not fit.
    """

    def __init__(self, config: MedVLMoEConfig, label_count: int) -> None:
        super().__init__()
        self.config = config
        self.routes_tokens = config.moe.unit == "token"
        self.vision = VisionEncoder(config.vision)
        self.text = TextEncoder(config.text)
        self.fusion = Fusion(
            config.fusion,
            image_width=self.vision.width,
            image_tokens=self.vision.token_count,
            text_width=self.text.width,
            text_pool=config.text.pool,
        )
        fused_width = 2 * config.fusion.dim
        self.moe = SparseMoE(fused_width, config.moe, config.expert_hidden_size)
        self.head = nn.Linear(fused_width, label_count)  # row y belongs to label y

    def forward(self, image_BCHW: Tensor, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> MedVLMoEOutput:
        """Predict.

        Args:
            image_BCHW: normalised images.
            input_ids_BL: token numbers, padded on the right.
            attention_mask_BL: 1 for tokens, 0 for padding; every text has at least one token.
        """
        # Columns that are padding in every text only cost time.
        longest = 1 if self.text.ignores_text else int(attention_mask_BL.sum(1).max())
        input_ids_BL, attention_mask_BL = input_ids_BL[:, :longest], attention_mask_BL[:, :longest]

        image_BNV = self.vision(image_BCHW)
        text_BLT = self.text(input_ids_BL, attention_mask_BL)
        fused = self.fusion(image_BNV, text_BLT, attention_mask_BL, every_token=self.routes_tokens)
        if fused.fused_BNF is None:
            mixed_BF, balance, routing = self.moe(fused.fused_BF)
        else:
            mixed_MF, balance, routing = self.moe(fused.fused_BNF.flatten(0, 1))
            mixed_BF = mixed_MF.unflatten(0, fused.fused_BNF.shape[:2]).mean(1)
        return MedVLMoEOutput(self.head(mixed_BF), balance, routing, fused.gate_B2)

    def routed_samples(self) -> Tensor:
        """Samples sent to each expert in training mode since the last reset, shape (K,), int64."""
        return self.moe.routed_samples_K.clone()

    def reset_routed_samples(self) -> None:
        """Start counting routed samples anew."""
        self.moe.routed_samples_K.zero_()

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute the encoders' activations in the backward pass instead of keeping them: less memory, more time."""
        self.vision.set_gradient_checkpointing(enabled)
        self.text.set_gradient_checkpointing(enabled)


AnyMedVLMoE = MedVLMoE | VisionOnly
"""What a :class:`MedVLMoEConfig` describes; ``variant`` says which."""


def build_model(config: MedVLMoEConfig, label_count: int, seed: int) -> AnyMedVLMoE:
    """A model whose random initial weights depend on the configuration and ``seed`` only.

    The global random state is as before afterwards.

    Raises:
        ConfigError: as for :class:`MedVLMoE`.
        CheckpointError: as for :class:`MedVLMoE`, and if ``moe.upcycle_from`` cannot be read or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "model"))
        model = _class_of(config)(config, label_count)
        if config.moe.upcycle_from is not None and isinstance(model, MedVLMoE):
            upcycle(model, Path(config.moe.upcycle_from), config.moe.upcycle_noise)
        return model


def _class_of(config: MedVLMoEConfig) -> type[AnyMedVLMoE]:
    return VisionOnly if config.variant == "vision_only" else MedVLMoE


def empty_model(config: MedVLMoEConfig, label_count: int) -> AnyMedVLMoE:
    """The model with parameters that have names and shapes but no memory yet, built in a moment.

    No weights file is read: whoever fills the model (:func:`medvlmoe.model.memory.fill`) has all the values.
    """
    bare = replace(config, vision=replace(config.vision, weights=None), text=replace(config.text, weights=None))
    model = without_memory(lambda: _class_of(bare)(bare, label_count))
    model.config = config
    return model


def build_frozen_parts(config: MedVLMoEConfig, label_count: int, seed: int) -> AnyMedVLMoE:
    """The model with the values of its frozen parameters; those that learn wait for theirs.

    The frozen values are those that :func:`build_model` gives for the same seed. An encoder that learns as a whole
    is not read from its weights file, which need not be there.

    Raises:
        ConfigError, CheckpointError: as for :class:`MedVLMoE`.
    """
    parts = ("vision",) if config.variant == "vision_only" else ("vision", "text")
    frozen = [part for part in parts if getattr(config, part).has_frozen_parts]
    if any(getattr(config, part).weights is None for part in frozen):
        return build_model(config, label_count, seed)  # frozen at random: the stream of numbers runs through all parts
    model = empty_model(config, label_count)
    with torch.random.fork_rng(devices=[]):
        if "vision" in frozen:
            model.vision = VisionEncoder(config.vision)
        if "text" in frozen and isinstance(model, MedVLMoE):
            model.text = TextEncoder(config.text)
    return model
