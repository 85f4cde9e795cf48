"""What a model returns.

Shapes: B batch, Y labels.
"""

from dataclasses import dataclass

from torch import Tensor

from medvlmoe.model.moe import RoutingDecision


@dataclass(frozen=True)
class MedVLMoEOutput:
    """Result of one forward pass.

    Attributes:
        logits_BY: one logit per label.
        auxiliary_loss: scalar to add to the task loss (the load-balancing loss; 0 for models without one).
        routing: where each sample was sent; ``None`` for models without experts.
        gate_B2: weights of image and text; ``None`` for models without a gate.
    """

    logits_BY: Tensor
    auxiliary_loss: Tensor
    routing: RoutingDecision | None = None
    gate_B2: Tensor | None = None
