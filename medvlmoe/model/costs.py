"""What a model costs: parameters, those that a sample uses, and floating-point operations of a forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from medvlmoe.data.batch import Batch
from medvlmoe.model.groups import expert_index, parameter_group


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """Size and work of a model.

    Attributes:
        parameters: all of them.
        trainable: those that learn.
        active: those that a sample uses, on average over the samples: of the experts only those that it is sent to.
        flops: floating-point operations of the forward pass of one sample, on average over the samples; a
            multiplication and an addition are two. Matrix products, convolutions and attention; not norms and the like.
    """

    parameters: int
    trainable: int
    active: float
    flops: float


def parameters_by_group(model: nn.Module) -> dict[str, int]:
    """Number of parameters by parameter group, of tensors that share memory once."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        group = parameter_group(name)
        counts[group] = counts.get(group, 0) + parameter.numel()
    return counts


def measure_cost(model: nn.Module, samples: Sequence[Batch]) -> ModelCost:
    """Send some samples through the model, one at a time, and count.

    The model is in evaluation mode meanwhile; it must be on the CPU or where the samples are.

    Args:
        model: called like MedVLMoE. Its ``idle_groups``, where it has that, are parameter groups that a prediction does
            not use.
        samples: batches of one record each. Where a router decides, and where texts differ in length, the average
            depends on them.
    """
    groups = parameters_by_group(model)
    experts = {expert_index(group): count for group, count in groups.items() if expert_index(group) is not None}
    idle: frozenset[str] = getattr(model, "idle_groups", frozenset())
    outside = sum(count for group, count in groups.items() if group not in idle) - sum(experts.values())
    modes = [(module, module.training) for module in model.modules()]
    active, flops = 0, 0
    model.eval()
    try:
        for sample in samples:
            # The fused kernels of attention are not counted on a CPU; plain matrix products are.
            with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                output = model(sample.image_BCHW, sample.input_ids_BL, sample.attention_mask_BL)
            flops += counter.get_total_flops()
            active += outside
            routing = getattr(output, "routing", None)
            if routing is not None:
                sent_to = routing.expert_index_BJ[routing.expert_weight_BJ > 0].unique().tolist()
                active += sum(experts[expert] for expert in sent_to)
    finally:
        for module, was_training in modes:
            module.training = was_training
    return ModelCost(
        parameters=sum(groups.values()),
        trainable=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        active=active / len(samples),
        flops=flops / len(samples),
    )
