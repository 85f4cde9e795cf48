"""Local weights of an encoder: loaded whole or not at all."""

from pathlib import Path

from torch import nn

from medvlmoe.errors import CheckpointError
from medvlmoe.files import load_tensors

SUFFIX = ".safetensors"
_NAMES_SHOWN = 5


def load_local_weights(module: nn.Module, path: str | Path, what: str) -> None:
    """Load a ``.safetensors`` file into ``module``; names and shapes must agree exactly.

    Args:
        module: receives the weights.
        path: the file.
        what: names the module in the message, for example ``vision backbone resnet18``.

    Raises:
        CheckpointError: the file is missing or damaged, or lacks or adds a tensor, or a shape differs.
    """
    tensors, _ = load_tensors(Path(path))
    expected = module.state_dict()
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [name for name in expected if name in tensors and tensors[name].shape != expected[name].shape]
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:_NAMES_SHOWN])}{', …' if len(names) > _NAMES_SHOWN else ''})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit the {what}: tensors {'; '.join(problems)}; choose its own weights")
    module.load_state_dict(tensors)
