"""Sparse mixture of experts with top-k routing.

Shapes: N routed units (samples, or image tokens), F fused width 2d, K experts, J chosen experts per unit (top-k).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medvlmoe.model.config import MoEConfig


class RoutingDecision(NamedTuple):
    """Where each unit is sent.

    Attributes:
        probabilities_BK: R(F) = softmax(W_r F), float32.
        expert_index_BJ: chosen experts, most probable first.
        expert_weight_BJ: their weights, float32; they sum to 1 when renormalised. With ``moe.top_p`` a unit that needs
            fewer than J experts has weight 0 for the rest of them, and is not sent there.
        logits_BK: W_r F, float32.

    With ``moe.unit=token`` the first dimension runs over the image tokens of all samples.
    """

    probabilities_BK: Tensor
    expert_index_BJ: Tensor
    expert_weight_BJ: Tensor
    logits_BK: Tensor | None = None


class Expert(nn.Sequential):
    """A two-layer perceptron F -> hidden -> F with GELU (reading A7)."""

    def __init__(self, width: int, hidden_size: int) -> None:
        super().__init__(nn.Linear(width, hidden_size), nn.GELU(), nn.Linear(hidden_size, width))


class SparseMoE(nn.Module):
    """MoE(F) = sum over the top-k experts of R_k(F) / Z * E_k(F) (paper, section 3.4; readings A6 to A9).

    Each expert is a module of its own and runs once on the units sent to it: an expert without any is not run and
    its gradients stay ``None``. Routing is computed in float32, under autocast too.

    Args:
        width: F, size of the input and of the output.
        hidden_size: inner width of an expert; ``None`` is ``width``.
        config: number of experts, top-k and the load-balancing loss.

    Attributes:
        routed_samples_K: units sent to each expert in training mode since the last reset (int64, not in checkpoints).
        sum_counts: set while several processes compute one batch: adds up their counts per expert, so that balance
            loss and ``routed_samples_K`` are those of the whole batch; ``None`` for one process.
        row_scope: set while the gradient of every record is taken: a context for the calls of a layer whose rows are
            the units of these numbers, out of so many; ``None`` otherwise.
    """

    routed_samples_K: Tensor

    def __init__(self, width: int, config: MoEConfig, hidden_size: int | None = None) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.renormalise = config.renormalise
        self.residual = config.residual
        self.noise = config.router_noise
        self.top_p = config.top_p
        self.entropy_alpha = config.entropy_alpha
        scale = config.experts if config.balance_scale == "switch" else 1
        self.balance_factor = config.balance_alpha * scale
        self.router = nn.Linear(width, config.experts, bias=False)  # row k belongs to expert k
        self.experts = nn.ModuleList(Expert(width, hidden_size or width) for _ in range(config.experts))
        self.shared = nn.ModuleList(Expert(width, hidden_size or width) for _ in range(config.shared_experts))
        self.register_buffer("routed_samples_K", torch.zeros(config.experts, dtype=torch.int64), persistent=False)
        self.sum_counts: Callable[[Tensor], Tensor] | None = None
        self.row_scope: Callable[[Tensor, int], AbstractContextManager[None]] | None = None

    def forward(self, fused_NF: Tensor) -> tuple[Tensor, Tensor, RoutingDecision]:
        """Route, run the experts, combine.

        Returns:
            The combined outputs of shape (N, F), the load-balancing loss (a scalar) and the routing decision.
        """
        routing = self._route(fused_NF)
        if self.top_p is None:
            counts_K = torch.bincount(routing.expert_index_BJ.flatten(), minlength=len(self.experts))
            output_NF = self._run_experts(fused_NF, routing, counts_K)
        else:
            counts_K = torch.bincount(
                routing.expert_index_BJ[routing.expert_weight_BJ > 0], minlength=len(self.experts)
            )
            output_NF = self._run_needed_experts(fused_NF, routing, counts_K)
        if self.shared:
            with self._rows(torch.arange(len(fused_NF), device=fused_NF.device), len(fused_NF)):
                for expert in self.shared:
                    output_NF = output_NF + expert(fused_NF)
        if self.sum_counts is not None:
            counts_K = self.sum_counts(counts_K)
        if self.training:
            self.routed_samples_K += counts_K
        if self.residual:
            output_NF = output_NF + fused_NF
        balance = self.balance_factor * balance_sum(routing.probabilities_BK, counts_K)
        if self.entropy_alpha > 0:
            balance = balance + self.entropy_alpha * mean_entropy(routing.probabilities_BK)
        return output_NF, balance, routing

    def _route(self, fused_NF: Tensor) -> RoutingDecision:
        # Half precision flips close decisions, and the loss of a flip is not small.
        every_unit_N = torch.arange(len(fused_NF), device=fused_NF.device)
        with torch.autocast(fused_NF.device.type, enabled=False), self._rows(every_unit_N, len(fused_NF)):
            logits_NK = self.router(fused_NF.to(self.router.weight.dtype))  # float32, or double in a test
        probabilities_NK = logits_NK.softmax(-1)
        choice_NK = logits_NK.detach()
        if self.training and self.noise > 0:
            choice_NK = choice_NK + self.noise * torch.randn_like(choice_NK)
        index_NJ = choice_NK.topk(self.top_k, dim=-1).indices
        weight_NJ = probabilities_NK.gather(-1, index_NJ)
        if self.top_p is not None:
            weight_NJ = weight_NJ.masked_fill(~needed(choice_NK.softmax(-1).gather(-1, index_NJ), self.top_p), 0.0)
        if self.renormalise:
            weight_NJ = weight_NJ / weight_NJ.sum(-1, keepdim=True)
        return RoutingDecision(probabilities_NK, index_NJ, weight_NJ, logits_NK)

    def _run_experts(self, fused_NF: Tensor, routing: RoutingDecision, counts_K: Tensor) -> Tensor:
        units, width = fused_NF.shape
        order = routing.expert_index_BJ.flatten().argsort(stable=True)
        copies = fused_NF.unsqueeze(1).expand(units, self.top_k, width).reshape(-1, width)
        chunks = copies[order].split(counts_K.tolist())
        units_of_chunks = (order // self.top_k).split(counts_K.tolist())
        outputs = []
        for expert, chunk, unit_R in zip(self.experts, chunks, units_of_chunks, strict=True):
            if len(chunk):
                with self._rows(unit_R, units):
                    outputs.append(expert(chunk))
        # Undo the sort and add the J outputs of a unit in a fixed order; index_add_ is not deterministic on GPUs.
        output_NJF = torch.cat(outputs)[order.argsort()].view(units, self.top_k, width)
        return (output_NJF * routing.expert_weight_BJ.unsqueeze(-1)).sum(1)

    def _run_needed_experts(self, fused_NF: Tensor, routing: RoutingDecision, counts_K: Tensor) -> Tensor:
        """As :meth:`_run_experts`, where units go to different numbers of experts."""
        slots = (routing.expert_weight_BJ > 0).flatten().nonzero().squeeze(1)  # one for each pair of unit and expert
        order = routing.expert_index_BJ.flatten()[slots].argsort(stable=True)
        unit_of_row = slots[order] // self.top_k
        found = []
        for expert, unit_R in zip(self.experts, unit_of_row.split(counts_K.tolist()), strict=True):
            if len(unit_R):
                with self._rows(unit_R, len(fused_NF)):
                    found.append(expert(fused_NF[unit_R]))
        outputs = torch.cat(found)
        filled = outputs.new_zeros(routing.expert_index_BJ.numel(), outputs.shape[-1])
        output_NJF = filled.index_put((slots[order],), outputs).view(*routing.expert_index_BJ.shape, -1)
        return (output_NJF * routing.expert_weight_BJ.unsqueeze(-1)).sum(1)

    def _rows(self, unit_R: Tensor, units: int) -> AbstractContextManager[None]:
        return nullcontext() if self.row_scope is None else self.row_scope(unit_R, units)


def needed(probability_NJ: Tensor, top_p: float) -> Tensor:
    """Which of the chosen experts, most probable first, are needed for a sum of at least ``top_p``; the first always.

    Those before an expert must not reach ``top_p`` on their own.
    """
    return probability_NJ.cumsum(-1) - probability_NJ < top_p


def mean_entropy(probabilities_NK: Tensor) -> Tensor:
    """Mean entropy of the routing probabilities in nats: log K when uniform, 0 when every unit is sure."""
    return -(probabilities_NK * probabilities_NK.clamp(min=1e-12).log()).sum(-1).mean()


def balance_sum(probabilities_NK: Tensor, counts_K: Tensor) -> Tensor:
    """sum_k f_k p_k: f_k the share of assignments that go to expert k (sums to 1), p_k its mean probability.

    1/K when both are uniform; gradients flow through p only (reading A9).
    """
    share_K = counts_K / counts_K.sum()
    return (share_K * probabilities_NK.mean(0)).sum()
