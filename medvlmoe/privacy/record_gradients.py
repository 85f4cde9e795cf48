"""The gradient of every single record, for every trainable parameter of a model with sparse experts.

Opacus hooks modules. Here that is not enough: BioGPT's position embedding is called with another argument than it looks
up, a vision transformer's class token and positions belong to no leaf module, sub-models are called by other methods
than ``forward``, and an expert has only the rows that were sent to it. So the *functions* that use a parameter are
watched instead (``torch.overrides.TorchFunctionMode``): nothing that uses one can escape, and what has no rule for its
per-record gradient is refused. The rules themselves are Opacus's grad samplers.

Shapes: B records of the batch, R rows of one call (B, or those that an expert got), U records among them, T positions
of a record (tokens, pixels), I and O inputs and outputs of a linear map, P shape of a parameter.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as functional
from opacus.grad_sample.conv import compute_conv_grad_sample
from opacus.grad_sample.embedding import compute_embedding_grad_sample
from opacus.grad_sample.group_norm import compute_group_norm_grad_sample
from opacus.grad_sample.layer_norm import compute_layer_norm_grad_sample
from opacus.utils.tensor_utils import unfold2d, unfold3d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medvlmoe.errors import ConfigError
from medvlmoe.model.moe import SparseMoE

# Attributes and methods that compute nothing from a parameter's values.
_HARMLESS = frozenset(
    {getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_leaf",
                                                      "layout", "grad", "is_cuda", "is_meta", "is_nested")}
    | {torch.Tensor.size, torch.Tensor.dim, torch.Tensor.numel, torch.Tensor.is_floating_point, torch.Tensor.stride,
       torch.Tensor.is_contiguous, torch.Tensor.__len__, torch.Tensor.__hash__, torch.is_floating_point}
)  # fmt: skip
# Functions through which a parameter with a first axis of 1 (a class token, positions) may meet the batch.
_BROADCASTS = frozenset({torch.Tensor.expand, torch.Tensor.to, torch.Tensor.type_as, torch.Tensor.float})
_ELEMENTWISE = frozenset(
    {torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__add__, torch.Tensor.__radd__, torch.Tensor.__iadd__,
     torch.mul, torch.Tensor.mul, torch.Tensor.mul_, torch.Tensor.__mul__, torch.Tensor.__rmul__,
     torch.Tensor.__imul__}
)  # fmt: skip


class RecordGradients(TorchFunctionMode):
    """Context of the forward and the backward pass of one batch; afterwards it has every record's gradient.

    The loss that is differentiated must be the sum over the records of each record's own loss.

    Args:
        model: its trainable parameters are watched.
        records: B, rows of the batch.
        flat: make every record's gradient at once; otherwise those of linear layers and embeddings stay factors
            (input and gradient at the output), whose norms and weighted sums need no gradient of a record: ghost
            clipping (Li et al. 2022, arXiv 2110.05679) with book-keeping (Bu et al. 2023, arXiv 2210.00038).

    Raises:
        ConfigError: a trainable parameter is used in a way that has no rule.
    """

    def __init__(self, model: nn.Module, records: int, *, flat: bool = False) -> None:
        super().__init__()
        self._names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._experts = [module for module in model.modules() if isinstance(module, SparseMoE)]
        self._records, self._flat = records, flat
        self._owner_R: Tensor | None = None
        self._parts: dict[nn.Parameter, list[_Direct | _Linear | _Lookup]] = {}
        self._copies: dict[tuple[nn.Parameter, int], Tensor] = {}

    def __enter__(self) -> "RecordGradients":
        for experts in self._experts:
            experts.row_scope = self._rows
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for experts in self._experts:
            experts.row_scope = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute ``func`` and remember what the gradients of its parameters will need."""
        kwargs = kwargs or {}
        used = [value for value in _flattened([*args, *kwargs.values()]) if self._is_watched(value)]
        if not used or func in _HARMLESS or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        rule = _RULES.get(func)
        if rule is not None:
            return rule(self, func, *args, **kwargs)
        return self._with_copies(func, args, kwargs, used)

    def finish(self) -> None:
        """After the backward pass: gather the rest.

        Raises:
            ConfigError: a parameter has a gradient that no rule saw.
        """
        for (parameter, _), copy in self._copies.items():
            if copy.grad is not None:
                self._add(parameter, _Direct(None, copy.grad.reshape(len(copy), *parameter.shape)))
        self._copies.clear()
        for parameter, name in self._names.items():
            if parameter.grad is not None and parameter not in self._parts:
                raise ConfigError(f"privacy: the gradient of {name} cannot be told by record")

    def squared_norms(self) -> Tensor:
        """Squared L2 norm of each record's gradient over all parameters, shape (B,).

        Never below the true one, but for the rounding of a sum of squares; see :class:`_GramNorms`.
        """
        any_parameter = next(iter(self._names))
        total_B = torch.zeros(self._records, device=any_parameter.device, dtype=torch.float64)
        for parameter, parts in self._parts.items():
            for part in self._joined(parameter, parts):
                squares_U = part.squared_norms().double()
                total_B = total_B + squares_U if part.records_U is None else total_B.index_add(
                    0, part.records_U, squares_U
                )  # fmt: skip
        return total_B.to(any_parameter.dtype)

    def weighted_sum(self, factor_B: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and sum over the records of ``factor`` times the gradient, of each parameter that has one."""
        for parameter, parts in self._parts.items():
            total = torch.zeros_like(parameter, requires_grad=False)
            for part in self._joined(parameter, parts):
                factor_U = factor_B if part.records_U is None else factor_B[part.records_U]
                total += part.weighted_sum(factor_U).view_as(total)  # a convolution's are those of a matrix
            yield self._names[parameter], total

    def by_record(self) -> Iterator[tuple[str, Tensor]]:
        """Name and gradients, shape (B, P), of each parameter that has any."""
        for parameter, parts in self._parts.items():
            yield self._names[parameter], _dense(parameter, parts, self._records)

    def _joined(
        self, parameter: nn.Parameter, parts: list["_Direct | _Linear | _Lookup"]
    ) -> list["_Direct | _Linear | _Lookup"]:
        """One part a parameter: the norm of a record is that of the sum over all uses of the parameter."""
        if len(parts) > 1:
            if all(part.records_U is None for part in parts) and len({type(part) for part in parts}) == 1:
                parts[:] = [parts[0].joined(parts[1:])]  # type: ignore[arg-type]
            else:
                parts[:] = [_Direct(None, _dense(parameter, parts, self._records))]
        return parts

    def _is_watched(self, value: Any) -> bool:
        return isinstance(value, nn.Parameter) and value in self._names

    @contextmanager
    def _rows(self, unit_R: Tensor, units: int) -> Iterator[None]:
        """Rows of the calls inside are the units (samples, or tokens in the order of the records) of these numbers."""
        self._owner_R = unit_R // (units // self._records)
        try:
            yield
        finally:
            self._owner_R = None

    def _add(self, parameter: nn.Parameter, part: "_Direct | _Linear | _Lookup") -> None:
        if not isinstance(part, _Direct) and (self._flat or part.is_larger_than_gradient):
            part = _Direct(part.records_U, part.by_record(parameter))
        self._parts.setdefault(parameter, []).append(part)

    def _watch(self, what: str, rows: int, output: Tensor, take: Callable[[Tensor], None]) -> Tensor:
        """Call ``take`` with the gradient at ``output``.

        Raises:
            ConfigError: it cannot be told which row belongs to which record.
        """
        if rows != (self._records if self._owner_R is None else len(self._owner_R)):
            raise ConfigError(
                f"privacy: {what} is called with {rows} rows for {self._records} records; it cannot be told which is "
                "whose"
            )
        output.register_hook(lambda gradient: take(gradient.detach()))
        return output

    def _linear(self, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        owner_R, given = self._owner_R, input.detach()

        def take(gradient: Tensor) -> None:
            records_U, (input_UTI, output_UTO) = _by_record(owner_R, given, gradient)
            if self._is_watched(weight):
                self._add(weight, _Linear(records_U, input_UTI, output_UTO))  # type: ignore[arg-type]
            if bias is not None and self._is_watched(bias):
                self._add(bias, _Direct(records_U, output_UTO.sum(1)))  # type: ignore[arg-type]

        if input.ndim < 2:
            raise ConfigError("privacy: a linear layer without an axis for the records")
        return self._watch("a linear layer", len(input), func(input, weight, bias), take)

    def _embedding(
        self, func: Any, input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
        norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
    ) -> Tensor:  # fmt: skip
        # A list of indices without an axis for the records could be mistaken for one index a record.
        if input.ndim < 2 or max_norm is not None or scale_grad_by_freq or sparse:
            raise ConfigError("privacy: an embedding that looks up no (records, positions) has no rule")
        owner_R = self._owner_R
        if len(input) == 1 and owner_R is None:  # the same positions for all records: BioGPT's
            input = input.expand(self._records, *input.shape[1:])

        def take(gradient: Tensor) -> None:
            if padding_idx is not None:
                place = padding_idx % len(weight)
                gradient = gradient.masked_fill((input == place).unsqueeze(-1), 0.0)
            records_U, (index_UT, output_UTO) = _by_record(owner_R, input.unsqueeze(-1), gradient)
            self._add(weight, _Lookup(records_U, index_UT.squeeze(-1), output_UTO, tuple(weight.shape)))  # type: ignore[arg-type]

        return self._watch("an embedding", len(input), func(input, weight, padding_idx), take)

    def _repeat(self, func: Any, input: Tensor, *sizes: Any) -> Tensor:
        """One value for all records (the null token in the place of a text): the new first axis is theirs."""
        times = list(_flattened(sizes))
        if len(times) <= input.ndim or times[0] != self._records or self._owner_R is not None:
            raise ConfigError(_no_rule(self._names[input], func))  # type: ignore[index]
        return func(self._copy(input, len(times)), 1, *times[1:])  # type: ignore[arg-type]

    def _layer_norm(
        self, func: Any, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
        bias: Tensor | None = None, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        layer = SimpleNamespace(weight=weight, bias=bias, normalized_shape=tuple(normalized_shape), eps=eps)
        output = func(input, normalized_shape, weight, bias, eps)
        return self._whole_batch("a layer norm", compute_layer_norm_grad_sample, layer, input, output)

    def _group_norm(
        self, func: Any, input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        layer = SimpleNamespace(weight=weight, bias=bias, num_groups=num_groups, eps=eps)
        output = func(input, num_groups, weight, bias, eps)
        return self._whole_batch("a group norm", compute_group_norm_grad_sample, layer, input, output)

    def _convolution(
        self, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        axes = weight.ndim - 2
        layer = (nn.Conv2d if axes == 2 else nn.Conv3d)(1, 1, 1, device="meta")  # Opacus asks for the very class
        layer.__dict__ |= {
            "in_channels": weight.shape[1] * groups, "out_channels": len(weight), "groups": groups,
            "kernel_size": tuple(weight.shape[2:]), "stride": _tuple(stride, axes), "dilation": _tuple(dilation, axes),
            "padding": padding if isinstance(padding, str) else _tuple(padding, axes),
        }  # fmt: skip
        layer.weight, layer.bias = weight, bias
        output = func(input, weight, bias, stride, padding, dilation, groups)
        positions = output[0, 0].numel()
        factors = groups == 1 and _gram_is_cheaper(positions, weight[0].numel(), len(weight))
        if self._flat or not factors or not self._is_watched(weight) or self._owner_R is not None:
            return self._whole_batch("a convolution", compute_conv_grad_sample, layer, input, output)
        given, unfold = input.detach(), unfold2d if axes == 2 else unfold3d

        def take(gradient: Tensor) -> None:  # few pixels and many channels: a linear map of the pixels' neighbourhoods
            input_BIT = unfold(
                given, kernel_size=layer.kernel_size, padding=layer.padding, stride=layer.stride,
                dilation=layer.dilation,
            )  # fmt: skip
            output_BTO = gradient.flatten(2).mT
            self._add(weight, _Linear(None, input_BIT.mT, output_BTO))  # type: ignore[arg-type]
            if bias is not None and self._is_watched(bias):
                self._add(bias, _Direct(None, output_BTO.sum(1)))  # type: ignore[arg-type]

        return self._watch("a convolution", len(input), output, take)

    def _whole_batch(self, what: str, sampler: Callable[..., Any], layer: Any, input: Tensor, output: Tensor) -> Tensor:
        if self._owner_R is not None:
            raise ConfigError(f"privacy: {what} inside an expert has no rule")
        given = input.detach()

        def take(gradient: Tensor) -> None:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                found = sampler(layer, [given], gradient)
            for parameter, gradient_BP in found.items():
                if parameter in self._names:
                    self._add(parameter, _Direct(None, gradient_BP))

        return self._watch(what, len(input), output, take)

    def _with_copies(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], used: list[nn.Parameter]) -> Any:
        """Compute with a copy of the parameter for every record; their gradients are the records'."""
        (parameter,) = used[:1]
        others = [value for value in _flattened([*args, *kwargs.values()]) if isinstance(value, Tensor)]
        axes = parameter.ndim
        if func in _BROADCASTS and axes > 1 and parameter.shape[0] == 1 and len(used) == 1 and others[0] is parameter:
            copy = self._copy(parameter, axes)
        elif func in _ELEMENTWISE and len(used) == 1 and len(others) == 2:
            other = others[1] if others[0] is parameter else others[0]
            fits = len(other) == self._records and (
                other.ndim > axes or (other.ndim == axes > 1 and parameter.shape[0] == 1)
            )
            if not fits or self._owner_R is not None:
                raise ConfigError(_no_rule(self._names[parameter], func))
            copy = self._copy(parameter, other.ndim)
        else:
            raise ConfigError(_no_rule(self._names[parameter], func))

        def exchanged(value: Any) -> Any:
            return copy if value is parameter else value

        return func(*map(exchanged, args), **{name: exchanged(value) for name, value in kwargs.items()})

    def _copy(self, parameter: nn.Parameter, axes: int) -> Tensor:
        """The parameter with a leading axis of B and ``axes`` axes in all; a leaf of the graph."""
        key = (parameter, axes)
        if key not in self._copies:
            own = parameter.shape[1:] if axes == parameter.ndim else parameter.shape
            shape = (self._records, *(1,) * (axes - 1 - len(own)), *own)
            value = parameter.detach().reshape(shape[1:])
            self._copies[key] = value.expand(shape).clone().requires_grad_()
        return self._copies[key]


@dataclass
class _Direct:
    """Gradients of U records (``None``: of all, in order), shape (U, P)."""

    records_U: Tensor | None
    gradient_UP: Tensor

    def squared_norms(self) -> Tensor:
        return self.gradient_UP.flatten(1).square().sum(1)

    def weighted_sum(self, factor_U: Tensor) -> Tensor:
        return torch.einsum("u...,u->...", self.gradient_UP, factor_U)

    def by_record(self, parameter: nn.Parameter) -> Tensor:
        return self.gradient_UP

    def joined(self, others: Sequence["_Direct"]) -> "_Direct":
        for other in others:
            self.gradient_UP = self.gradient_UP + other.gradient_UP
        return self


@dataclass(frozen=True)
class _GramNorms:
    """Squared norms from inner products: the sum over positions s, t of <a_s, a_t> <o_s, o_t>, which has both signs.

    Whoever chooses the weights can make its terms cancel to any degree (equal inputs, opposite gradients). In single
    precision what is left is then rounding, a norm of 0 for a gradient of any size, and the record is not clipped. So
    the products are made in double precision, and their greatest error is added: that can only clip more.

    With S = sum_t |a_t| |o_t|, no inner product of n numbers is off by more than about n u |a_s| |a_t| in whatever
    order it is added (Higham 2002, section 3.1; u = eps / 2), the sum over one axis by T u of its terms, and all
    moduli add up to at most S^2: together (I + O + 2 T + a few) u S^2. Twice that is added: with 1,000 channels and
    S ten times the norm, 1e-10 of the squared norm.

    Attributes:
        squares_U: at least the squared norms.
        cancels: a record has S beyond ``_MOST_CANCELLED`` of its norm, so that the weighted sum has to be made in
            double precision too: its own rounding is a part of S, not of the norm.
    """

    squares_U: Tensor
    cancels: bool

    @classmethod
    def of(cls, inner_UTT: Tensor, outer_UTT: Tensor, terms: int) -> "_GramNorms":
        """From the inner products of inputs and outputs in double precision; ``terms`` is I + O."""
        sizes_U = (inner_UTT.diagonal(dim1=1, dim2=2) * outer_UTT.diagonal(dim1=1, dim2=2)).sqrt().sum(1)
        error = (terms + 2 * inner_UTT.shape[1] + 16) * torch.finfo(torch.float64).eps
        squares_U = (inner_UTT * outer_UTT).sum(2).sum(1).clamp(min=0.0) + error * sizes_U.square()
        return cls(squares_U, bool((sizes_U > _MOST_CANCELLED * squares_U.sqrt()).any()))


# Rounding to single precision is 6e-8 of S, so at most some 2e-6 of the norm up to here.
_MOST_CANCELLED = 32.0


@dataclass
class _Linear:
    """The gradient of a linear map's weight as factors: the sum over positions t of output_t input_t^T.

    With few positions: with many the gradients themselves are smaller and faster (arXiv 2205.10683).
    """

    records_U: Tensor | None
    input_UTI: Tensor
    output_UTO: Tensor
    cancels: bool = True  # until the norms say otherwise

    @property
    def is_larger_than_gradient(self) -> bool:
        _, positions, inputs = self.input_UTI.shape
        return not _gram_is_cheaper(positions, inputs, self.output_UTO.shape[2])

    def squared_norms(self) -> Tensor:
        inner_UTT, outer_UTT = _inner_products(self.input_UTI), _inner_products(self.output_UTO)
        norms = _GramNorms.of(inner_UTT, outer_UTT, self.input_UTI.shape[2] + self.output_UTO.shape[2])
        self.cancels = norms.cancels
        return norms.squares_U

    def weighted_sum(self, factor_U: Tensor) -> Tensor:
        input_UTI, output_UTO, factor_U = _in_double(self.cancels, self.input_UTI, self.output_UTO, factor_U)
        weighted_UTO = output_UTO * factor_U[:, None, None]
        return weighted_UTO.flatten(0, 1).T @ input_UTI.flatten(0, 1)

    def by_record(self, parameter: nn.Parameter) -> Tensor:
        return (self.output_UTO.mT @ self.input_UTI).view(-1, *parameter.shape)

    def joined(self, others: Sequence["_Linear"]) -> "_Linear":
        parts = [self, *others]
        return _Linear(
            None, torch.cat([part.input_UTI for part in parts], 1), torch.cat([part.output_UTO for part in parts], 1)
        )


@dataclass
class _Lookup:
    """The gradient of an embedding table: row index_t gets output_t."""

    records_U: Tensor | None
    index_UT: Tensor
    output_UTO: Tensor
    shape: tuple[int, ...]
    cancels: bool = True  # until the norms say otherwise
    is_larger_than_gradient = False

    def squared_norms(self) -> Tensor:
        equal_UTT = (self.index_UT.unsqueeze(2) == self.index_UT.unsqueeze(1)).double()
        norms = _GramNorms.of(equal_UTT, _inner_products(self.output_UTO), self.output_UTO.shape[2])
        self.cancels = norms.cancels
        return norms.squares_U

    def weighted_sum(self, factor_U: Tensor) -> Tensor:
        output_UTO, factor_U = _in_double(self.cancels, self.output_UTO, factor_U)
        weighted_UTO = output_UTO * factor_U[:, None, None]
        return weighted_UTO.new_zeros(self.shape).index_add(0, self.index_UT.flatten(), weighted_UTO.flatten(0, 1))

    def by_record(self, parameter: nn.Parameter) -> Tensor:
        layer = SimpleNamespace(weight=parameter, embedding_dim=self.shape[1])
        with torch._C.DisableTorchFunction():
            return compute_embedding_grad_sample(layer, [self.index_UT], self.output_UTO)[parameter]

    def joined(self, others: Sequence["_Lookup"]) -> "_Lookup":
        parts = [self, *others]
        return _Lookup(
            None, torch.cat([part.index_UT for part in parts], 1), torch.cat([part.output_UTO for part in parts], 1),
            self.shape,
        )  # fmt: skip


_RULES: Mapping[Any, Callable[..., Tensor]] = {
    functional.linear: RecordGradients._linear,
    functional.embedding: RecordGradients._embedding,
    functional.layer_norm: RecordGradients._layer_norm,
    functional.group_norm: RecordGradients._group_norm,
    functional.conv2d: RecordGradients._convolution,
    functional.conv3d: RecordGradients._convolution,
    torch.Tensor.repeat: RecordGradients._repeat,
}


def _inner_products(rows_UTX: Tensor) -> Tensor:
    """Of a record's positions with one another, in double precision, shape (U, T, T)."""
    rows_UTX = rows_UTX.double()
    return rows_UTX @ rows_UTX.mT


def _in_double(wanted: bool, *tensors: Tensor) -> list[Tensor]:
    return [tensor.double() if wanted else tensor for tensor in tensors]


def _gram_is_cheaper(positions: int, inputs: int, outputs: int) -> bool:
    return 2 * positions**2 <= inputs * outputs


def _by_record(owner_R: Tensor | None, *tensors: Tensor) -> tuple[Tensor | None, list[Tensor]]:
    """Tensors of R rows as (U, T, last axis): all rows of a record together, zeros where it has fewer than another."""
    if owner_R is None:
        return None, [tensor.reshape(len(tensor), -1, tensor.shape[-1]) for tensor in tensors]
    records_U, place_R, count_U = owner_R.unique(return_inverse=True, return_counts=True)
    order_R = place_R.argsort(stable=True)
    place_R = place_R[order_R]
    within_R = torch.arange(len(owner_R), device=owner_R.device) - (count_U.cumsum(0) - count_U)[place_R]
    packed = []
    for tensor in tensors:
        rows = tensor.reshape(len(tensor), -1, tensor.shape[-1])[order_R]
        whole = rows.new_zeros(len(records_U), int(count_U.max()), *rows.shape[1:])
        whole[place_R, within_R] = rows
        packed.append(whole.flatten(1, 2))
    return records_U, packed


def _dense(parameter: nn.Parameter, parts: Sequence[_Direct | _Linear | _Lookup], records: int) -> Tensor:
    total_BP = torch.zeros(records, *parameter.shape, device=parameter.device, dtype=parameter.dtype)
    for part in parts:
        gradient_UP = part.by_record(parameter)
        total_BP = (
            total_BP + gradient_UP if part.records_U is None else total_BP.index_add(0, part.records_U, gradient_UP)
        )
    return total_BP


def _flattened(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flattened(value)
        else:
            yield value


def _tuple(value: Any, axes: int) -> tuple[int, ...]:
    return (int(value),) * axes if isinstance(value, int) else tuple(value)


def _no_rule(name: str, func: Any) -> str:
    return (
        f"privacy: {name} is used by {getattr(func, '__name__', func)}, for which there is no gradient by record; "
        "freeze that part, or choose another model"
    )
