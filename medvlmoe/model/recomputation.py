"""Activations of transformers' models: kept for the backward pass, or computed again in it."""

from typing import Any


def recompute_activations(model: Any, enabled: bool) -> None:
    """Let a ``transformers`` model recompute its activations in the backward pass instead of keeping them.

    Args:
        model: a ``PreTrainedModel``.
        enabled: whether it does from now on.
    """
    # transformers renamed the methods during version 5.
    prefix = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if enabled:
        getattr(model, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
        # Needed by reentrant checkpointing only, and it would run the backward pass through a frozen encoder too.
        model.disable_input_require_grads()
    else:
        getattr(model, f"{prefix}_checkpointing_disable")()
