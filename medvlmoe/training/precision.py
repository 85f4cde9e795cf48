"""Number formats of the forward pass: float32, or 16 bits by autocast, with loss scaling where float16 needs it."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from medvlmoe.errors import CheckpointError, ConfigError

_LOWER = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions (avx512_bf16 or amx); without them bfloat16 is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve_precision(precision: str, device: torch.device) -> str:
    """The format to use on a device: ``float32``, ``bfloat16`` or ``float16``.

    ``auto`` is float16 on CUDA, as in the paper; on a CPU bfloat16 if the CPU has instructions for it, else float32.

    Raises:
        ConfigError: the device cannot train in this format.
    """
    if precision == "auto":
        if device.type == "cuda":
            return "float16"
        return "bfloat16" if device.type == "cpu" and cpu_has_bfloat16() else "float32"
    if precision == "float16" and device.type != "cuda":
        raise ConfigError(f"training.precision=float16 needs CUDA, the device is {device}; use bfloat16 or float32")
    if precision == "bfloat16" and device.type not in ("cpu", "cuda"):
        raise ConfigError(f"training.precision=bfloat16 is not there on {device}; use float32")
    if precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError(f"training.precision=bfloat16: the GPU {device} lacks it; use float16 or float32")
    return precision


class Precision:
    """Autocast, loss scaling and the optimizer step of one format on one kind of device.

    Args:
        name: ``float32``, ``bfloat16`` or ``float16``; see :func:`resolve_precision` for ``auto``.
        device_type: ``cpu``, ``cuda``, …
    """

    def __init__(self, name: str, device_type: str) -> None:
        self.name = name
        self._device_type = device_type
        self._scaler = self._new_scaler()

    @property
    def scales_loss(self) -> bool:
        """Whether a non-finite gradient is met by a smaller loss scale instead of an error."""
        return self._scaler is not None

    def autocast(self) -> AbstractContextManager[object]:
        """Context of the forward pass; the loss belongs outside of it, in float32."""
        if self.name not in _LOWER:
            return nullcontext()
        return torch.autocast(self._device_type, dtype=_LOWER[self.name])

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` (times the scale) to the parameters."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], clip: float | None = None
    ) -> bool:
        """Take the optimizer's step.

        Returns:
            Whether it was taken; with loss scaling a step with a non-finite gradient is left out.
        """
        if self._scaler is None:
            if clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            return True
        if clip is not None:
            self._scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, clip)
        scale = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= scale  # the scaler's only public sign of a step left out

    def tensors(self) -> dict[str, Tensor]:
        """State of the loss scale: ``scaler/scale`` and ``scaler/growth_tracker``; empty without scaling."""
        if self._scaler is None:
            return {}
        state = self._scaler.state_dict()
        return {
            "scaler/scale": torch.tensor(state["scale"], dtype=torch.float32),
            "scaler/growth_tracker": torch.tensor(state["_growth_tracker"], dtype=torch.int32),
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`tensors` gave; an empty mapping starts the scale anew.

        Raises:
            CheckpointError: one of the two is missing.
        """
        self._scaler = self._new_scaler()
        if self._scaler is None or not tensors:
            return
        try:
            scale, growth = tensors["scaler/scale"], tensors["scaler/growth_tracker"]
        except KeyError as error:
            raise CheckpointError(f"the optimizer state has no tensor {error}; it is incomplete") from error
        self._scaler.load_state_dict(
            self._scaler.state_dict() | {"scale": float(scale), "_growth_tracker": int(growth)}
        )

    def _new_scaler(self) -> torch.amp.GradScaler | None:
        return torch.amp.GradScaler(self._device_type) if self.name == "float16" else None
