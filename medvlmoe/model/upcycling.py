"""Sparse upcycling (Komatsuzaki et al. 2023, arXiv 2212.05055): experts start as copies of a trained dense network."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medvlmoe.errors import CheckpointError
from medvlmoe.files import TensorFile

if TYPE_CHECKING:
    from medvlmoe.model.medvlmoe import MedVLMoE

_DENSE = "moe.experts.0."


@torch.no_grad()
def upcycle(model: "MedVLMoE", path: Path, noise: float) -> None:
    """Give the model the weights of a trained one with a single expert; each of its K experts becomes a copy.

    Where the routing weights of a sample sum to 1, K equal copies give what the single network gave, whatever the
    router (which stays random) does: without noise the model starts as the trained function.

    Args:
        model: receives the weights; everything but its router.
        path: ``final.safetensors`` of the trained model, ``moe.experts=1`` and otherwise like ``model``.
        noise: standard deviation of normal noise on each copied tensor, as a share of the tensor's own; drawn from
            torch's global random stream.

    Raises:
        CheckpointError: the file is missing, damaged, or of a model that is not the same but for its experts.
    """
    dense = TensorFile(path)
    state = model.state_dict()
    for name, tensor in state.items():
        if name.startswith("moe.router."):
            continue
        expert = name.startswith("moe.experts.")
        source = _DENSE + name.split(".", 3)[3] if expert else name
        if source not in dense or dense.shape_of(source) != tensor.shape:
            raise CheckpointError(
                f"model.moe.upcycle_from: {path} does not fit at '{source}'; train it with model.moe.experts=1, "
                "model.moe.top_k=1 and otherwise the same model and labels"
            )
        value = dense[source]
        if expert and noise > 0:
            # A single number has no spread of its own.
            value = value + noise * value.std(correction=0) * torch.randn_like(value)
        tensor.copy_(value)
    if any(name.startswith("moe.experts.1.") for name in dense):
        raise CheckpointError(f"model.moe.upcycle_from: {path} has several experts; give a model with a single one")
