"""AdamW with one learning rate for the encoders and one for the rest, and its state as named tensors."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.model.groups import ENCODER_GROUPS, parameter_group
from medvlmoe.training.config import TrainingConfig

_STATE_NAMES = ("step", "exp_avg", "exp_avg_sq")
# Learned positions and tokens are set, not shared weights: decay would only pull them to the origin (A12).
_NEVER_DECAYED = ("pos_embed", "position", "cls_token", "class_token", "reg_token")


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: not to biases, norms (one axis), position embeddings or class tokens (A12)."""
    return parameter.ndim > 1 and not any(part in name for part in _NEVER_DECAYED)


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over the model's trainable parameters.

    Each of its parameter groups carries ``peak_learning_rate``; :func:`set_learning_rate` scales it. A parameter
    without a gradient (an expert that no sample chose) is skipped: neither moved nor decayed.

    Raises:
        ConfigError: nothing to train.
    """
    members: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trainable_parameters(model).items():
        key = (parameter_group(name) in ENCODER_GROUPS, is_decayed(name, parameter))
        members.setdefault(key, []).append(parameter)
    if not members:
        raise ConfigError("the model has no trainable parameter; unfreeze at least one parameter group")
    groups = []
    for (encoder, decayed), parameters in sorted(members.items()):
        rate = config.encoder_learning_rate if encoder else config.head_learning_rate
        decay = config.weight_decay if decayed else 0.0
        groups.append({"params": parameters, "lr": rate, "peak_learning_rate": rate, "weight_decay": decay})
    # One kernel over each tensor: several times faster than the default on a CPU, and as repeatable.
    return torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), fused=True)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name and parameter of everything that learns, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_learning_rate"] * factor


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state: ``step/<parameter>``, ``exp_avg/<parameter>``, ``exp_avg_sq/<parameter>``.

    A parameter that never had a gradient is absent. As with ``state_dict``, the tensors are the optimizer's own: clone
    what must outlive the next step.
    """
    return {
        f"{kind}/{name}": optimizer.state[parameter][kind]
        for name, parameter in trainable_parameters(model).items()
        if optimizer.state.get(parameter)
        for kind in _STATE_NAMES
    }


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Replace the optimizer's whole state by copies of what :func:`optimizer_tensors` gave; empty means a fresh start.

    Each tensor is looked up once, so that those of a file need not be in memory together.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape; the old state is then kept.
    """
    parameters = trainable_parameters(model)
    own = [name for name in tensors if not name.startswith("scaler/")]  # the loss scale is none of the optimizer's
    names = {name.partition("/")[2] for name in own}
    state: dict[Tensor, dict[str, Tensor]] = {}
    for name in sorted(names):
        if name not in parameters:
            raise CheckpointError(f"the optimizer state speaks of '{name}', which this model does not train")
        parameter = parameters[name]
        state[parameter] = {
            kind: _copy_for(parameter, kind, name, tensors.get(f"{kind}/{name}")) for kind in _STATE_NAMES
        }
    if len(own) != len(state) * len(_STATE_NAMES):
        extra = next(name for name in own if name.partition("/")[0] not in _STATE_NAMES)
        raise CheckpointError(f"the optimizer state has an unknown tensor '{extra}'")
    optimizer.state.clear()
    optimizer.state.update(state)


def allocate_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, names: Iterable[str]) -> None:
    """Give the parameters of these names, and no others, a state of arbitrary values that are yet to be received."""
    parameters = trainable_parameters(model)
    optimizer.state.clear()
    for name in names:
        parameter = parameters[name]
        optimizer.state[parameter] = {
            kind: torch.zeros((), device=parameter.device)
            if kind == "step"
            else torch.empty_like(parameter, requires_grad=False)
            for kind in _STATE_NAMES
        }


def _copy_for(parameter: nn.Parameter, kind: str, name: str, stored: Tensor | None) -> Tensor:
    shape = torch.Size() if kind == "step" else parameter.shape
    if stored is None:
        raise CheckpointError(f"the optimizer state has no '{kind}/{name}'; it is incomplete")
    if stored.shape != shape:
        raise CheckpointError(
            f"the optimizer state's '{kind}/{name}' has shape {list(stored.shape)}, the model needs {list(shape)}"
        )
    if kind == "step":
        return stored.detach().to(parameter.device, torch.float32, copy=True)
    return torch.empty_like(parameter, requires_grad=False).copy_(stored)
