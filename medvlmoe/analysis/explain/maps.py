"""Where in an image a model looked: cross-attention, and Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391).

Shapes: B batch of one, C channels, H W rows and columns (volumes: D H W), N image tokens, L text tokens, P places of
the token grid, V width.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medvlmoe.model.medvlmoe import MedVLMoE
from medvlmoe.model.output import MedVLMoEOutput
from medvlmoe.model.text import pool_text


@dataclass
class _Watched:
    """What passed through the model in a forward pass."""

    activation_BPV: Tensor | None = None
    tokens_BNV: Tensor | None = None
    attended: tuple[Tensor, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Maps:
    """Two maps over the grid of image tokens, and the forward pass they belong to.

    Attributes:
        output: of the forward pass.
        attention: where the text's tokens looked, averaged over them as the model averages them and over the heads,
            times the number of image tokens: 1 is as much as if all had the same; shape of the grid. ``None`` where
            the model's attention has a single image token, or no cross-attention.
        attention_elsewhere: share of the attention on tokens that stand for the whole image.
        grad_cam: positive contributions to the logit, shape of the grid; all 0 where no place raised it.
    """

    output: MedVLMoEOutput
    attention: Tensor | None
    attention_elsewhere: float | None
    grad_cam: Tensor


def image_maps(model: MedVLMoE, image_BCHW: Tensor, input_ids_BL: Tensor, mask_BL: Tensor, label: int) -> Maps:
    """Run the model on one image and map what it looked at.

    Grad-CAM weighs the channels of the last feature map by the mean gradient of the label's logit, adds them up and
    keeps what is positive. The last feature map of a convolutional backbone is its output. For a transformer it is the
    input of its last attention (after that block's first norm): later, the class token has already read the patches.

    Args:
        model: in evaluation mode; its parameters get no gradients.
        image_BCHW: one normalised image.
        input_ids_BL: its text.
        mask_BL: 1 for tokens.
        label: row of the head.
    """
    with _watching(model) as watched, torch.enable_grad():
        # Gradients of activations are wanted where no parameter learns, too.
        output = model(image_BCHW.detach().requires_grad_(True), input_ids_BL, mask_BL)
        grad_cam_P = _grad_cam(model, watched, output.logits_BY[0, label])
    grid = token_grid(model, len(grad_cam_P))
    attention, elsewhere = _attention(model, watched)
    return Maps(
        output,
        None if attention is None or len(attention) != len(grad_cam_P) else attention.reshape(grid),
        elsewhere,
        grad_cam_P.reshape(grid),
    )


def token_grid(model: MedVLMoE, places: int) -> tuple[int, ...]:
    """Rows and columns (slices before them for volumes) of the image tokens that stand for a place each."""
    vision = model.config.vision
    if vision.depth is not None:
        side = vision.image_size // vision.volume.patch_size
        return vision.depth // vision.volume.patch_depth, side, side
    side = math.isqrt(places)
    return (side, side) if side * side == places else (1, places)


@contextmanager
def _watching(model: MedVLMoE) -> Iterator[_Watched]:
    watched = _Watched()

    def see_activation(module: nn.Module, inputs: Any, output: Tensor) -> None:
        watched.activation_BPV = output

    def see_tokens(module: nn.Module, inputs: Any, output: Tensor) -> None:
        watched.tokens_BNV = output

    def see_attended(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        watched.attended = inputs

    handles = [model.vision.register_forward_hook(see_tokens)]
    last = _last_attention_input(model)
    if last is not None:
        handles.append(last.register_forward_hook(see_activation))
    cross_attention = getattr(model.fusion, "cross_attention", None)
    if cross_attention is not None:
        handles.append(cross_attention.register_forward_pre_hook(see_attended))
    try:
        yield watched
    finally:
        for handle in handles:
            handle.remove()


def _last_attention_input(model: MedVLMoE) -> nn.Module | None:
    """The first norm of a transformer's last block; ``None`` for a backbone that gives a feature map."""
    blocks = getattr(model.vision.backbone, "blocks", None)
    if not model.vision.has_class_token or blocks is None:
        return None
    return getattr(blocks[-1], "norm1", None)


def _prefix(model: MedVLMoE) -> int:
    """Tokens in front that stand for the whole image."""
    return getattr(model.vision.backbone, "num_prefix_tokens", 0) if model.vision.has_class_token else 1


def _grad_cam(model: MedVLMoE, watched: _Watched, logit: Tensor) -> Tensor:
    prefix = _prefix(model)
    if watched.activation_BPV is not None:
        activation_NV = watched.activation_BPV
        gradient_NV = torch.autograd.grad(logit, activation_NV, allow_unused=True)[0]
        gradient_PV = torch.zeros_like(activation_NV[0, prefix:]) if gradient_NV is None else gradient_NV[0, prefix:]
        return _combined(activation_NV[0, prefix:], gradient_PV)
    assert watched.tokens_BNV is not None
    gradient_BNV = torch.autograd.grad(logit, watched.tokens_BNV)[0]
    gradient_PV = gradient_BNV[0, prefix:]
    if not model.vision.has_class_token:  # token 0 is the mean of the places: its gradient reaches each of them
        gradient_PV = gradient_PV + gradient_BNV[0, 0] / len(gradient_PV)
    return _combined(watched.tokens_BNV[0, prefix:], gradient_PV)


def _combined(activation_PV: Tensor, gradient_PV: Tensor) -> Tensor:
    return (activation_PV * gradient_PV.mean(0)).sum(1).relu().detach().float().cpu()


def _attention(model: MedVLMoE, watched: _Watched) -> tuple[Tensor | None, float | None]:
    """Attention of the pooled text on each place, and on tokens that stand for the whole image."""
    if len(watched.attended) < 2 or watched.attended[0].shape[1] <= _prefix(model):
        return None, None
    image_BND, text_BLD = (tokens.detach() for tokens in watched.attended[:2])
    fusion = model.fusion.cross_attention
    attention = fusion.attention if fusion.text_attention is None else fusion.text_attention
    with torch.no_grad():
        weight_LN = attention.weights(text_BLD, image_BND)[0].mean(0).float().cpu()
    # Pooled as the model pools the attended text: a mean leaves its opening token out.
    one_text_without_padding = torch.ones(1, len(weight_LN))
    weight_N = pool_text(weight_LN.unsqueeze(0), one_text_without_padding, model.fusion.text_pool)[0]
    prefix = _prefix(model)
    return weight_N[prefix:] * len(weight_N), float(weight_N[:prefix].sum())
