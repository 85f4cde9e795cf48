"""The sparse mixture against a dense one, and the values of its losses."""

import copy

import pytest
import torch
from torch import Tensor

from medvlmoe.model import MoEConfig, SparseMoE
from medvlmoe.model.moe import balance_sum

WIDTH, EXPERTS = 6, 5


def make_moe(seed: int = 0, **options: object) -> SparseMoE:
    torch.manual_seed(seed)
    return SparseMoE(WIDTH, MoEConfig(**{"experts": EXPERTS, **options}))  # type: ignore[arg-type]


def dense_reference(moe: SparseMoE, fused: Tensor, renormalise: bool = True) -> Tensor:
    """Every expert on every input, weighted by R_k / Z where chosen and 0 elsewhere."""
    probabilities = torch.softmax(fused @ moe.router.weight.T, dim=-1)
    kth_largest = probabilities.sort(dim=-1, descending=True).values[:, moe.top_k - 1 : moe.top_k]
    weights = probabilities * (probabilities >= kth_largest)
    if renormalise:
        weights = weights / weights.sum(-1, keepdim=True)
    return sum(weights[:, k : k + 1] * expert(fused) for k, expert in enumerate(moe.experts))  # type: ignore[misc]


@pytest.mark.parametrize("units", [1, 2, 64])
@pytest.mark.parametrize("top_k", [1, 2, EXPERTS])
@pytest.mark.parametrize("renormalise", [True, False])
def test_sparse_equals_dense_in_outputs_and_gradients(units: int, top_k: int, renormalise: bool) -> None:
    sparse = make_moe(top_k=top_k, renormalise=renormalise)
    dense = copy.deepcopy(sparse)
    fused = torch.randn(units, WIDTH, requires_grad=True)
    fused_again = fused.detach().clone().requires_grad_()
    direction = torch.randn(units, WIDTH)

    output, _, _ = sparse(fused)
    expected = dense_reference(dense, fused_again, renormalise)
    torch.testing.assert_close(output, expected)

    (output * direction).sum().backward()
    (expected * direction).sum().backward()
    torch.testing.assert_close(fused.grad, fused_again.grad)
    for (name, ours), theirs in zip(sparse.named_parameters(), dense.parameters(), strict=True):
        gradient = torch.zeros_like(ours) if ours.grad is None else ours.grad
        torch.testing.assert_close(gradient, theirs.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_residual_adds_the_input() -> None:
    plain, residual = make_moe(), make_moe(residual=True)
    fused = torch.randn(4, WIDTH)
    torch.testing.assert_close(residual(fused)[0], plain(fused)[0] + fused)


def test_expert_is_a_two_layer_perceptron_of_the_fused_width() -> None:
    """Reading A7."""
    assert [tuple(p.shape) for p in make_moe().experts[0].parameters()] == [(WIDTH, WIDTH), (WIDTH,)] * 2
    wide = SparseMoE(WIDTH, MoEConfig(experts=EXPERTS), hidden_size=20)
    assert wide.experts[0][0].out_features == 20
    assert wide.experts[0][2].out_features == WIDTH


def test_unused_expert_has_no_gradient_and_used_ones_have() -> None:
    moe = make_moe(experts=8)
    output, balance, routing = moe(torch.randn(1, WIDTH))
    (output.sum() + balance).backward()
    chosen = set(routing.expert_index_BJ[0].tolist())
    for index, expert in enumerate(moe.experts):
        assert all((p.grad is not None) == (index in chosen) for p in expert.parameters())


def test_chosen_weights_sum_to_1_and_are_the_softmax_over_the_chosen_logits() -> None:
    """Reading A8."""
    moe = make_moe()
    fused = torch.randn(20, WIDTH)
    routing = moe(fused)[2]
    torch.testing.assert_close(routing.expert_weight_BJ.sum(-1), torch.ones(20))
    logits = moe.router(fused).gather(1, routing.expert_index_BJ)
    torch.testing.assert_close(routing.expert_weight_BJ, logits.softmax(-1))
    assert (routing.expert_weight_BJ[:, 0] >= routing.expert_weight_BJ[:, 1]).all()


def test_routed_counts_sum_to_units_times_k_and_only_in_training() -> None:
    moe = make_moe()
    routing = [moe(torch.randn(units, WIDTH))[2] for units in (7, 9)]
    assert int(moe.routed_samples_K.sum()) == (7 + 9) * 2
    chosen = torch.cat([decision.expert_index_BJ.flatten() for decision in routing])
    assert moe.routed_samples_K.tolist() == [int((chosen == k).sum()) for k in range(EXPERTS)]
    moe.eval()
    moe(torch.randn(5, WIDTH))
    assert int(moe.routed_samples_K.sum()) == (7 + 9) * 2
    assert "routed_samples_K" not in moe.state_dict()


def test_permuting_experts_with_router_rows_changes_nothing() -> None:
    moe = make_moe()
    permuted = copy.deepcopy(moe)
    permutation = torch.tensor([3, 0, 4, 1, 2])
    permuted.experts = torch.nn.ModuleList(moe.experts[k] for k in permutation)
    permuted.router.weight.data = moe.router.weight.data[permutation]
    fused = torch.randn(30, WIDTH)
    output, balance, _ = moe(fused)
    output_again, balance_again, _ = permuted(fused)
    torch.testing.assert_close(output_again, output)
    torch.testing.assert_close(balance_again, balance)


@pytest.mark.parametrize(("scale", "uniform", "collapsed"), [("paper", 0.00125, 0.005), ("switch", 0.01, 0.04)])
def test_balance_loss_of_uniform_and_collapsed_routing(scale: str, uniform: float, collapsed: float) -> None:
    """Reading A9, with 8 experts, top-2 and alpha 0.01."""
    moe = SparseMoE(8, MoEConfig(balance_scale=scale))
    strength = 1000.0

    # Unit i prefers experts i and i+1 (mod 8) equally: counts and probabilities are both uniform.
    moe.router.weight.data = strength * torch.eye(8)
    pairs = torch.eye(8) + torch.eye(8).roll(1, dims=1)
    assert moe(pairs)[1].item() == pytest.approx(uniform, rel=1e-5)

    # Every unit prefers experts 0 and 1.
    assert moe(pairs[:1].expand(8, 8))[1].item() == pytest.approx(collapsed, rel=1e-5)


def test_balance_gradient_pushes_down_the_overused_expert() -> None:
    probabilities = torch.full((4, 3), 1 / 3, requires_grad=True)
    balance_sum(probabilities, torch.tensor([6, 2, 0])).backward()
    assert probabilities.grad is not None
    torch.testing.assert_close(probabilities.grad, torch.tensor([0.75, 0.25, 0.0]).expand(4, 3) / 4)


def test_router_stays_float32_under_autocast() -> None:
    moe = make_moe()
    fused = torch.randn(16, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        inside = moe(fused)[2]
    outside = moe(fused)[2]
    assert inside.probabilities_BK.dtype == torch.float32
    assert torch.equal(inside.probabilities_BK, outside.probabilities_BK)


def test_same_input_same_bits() -> None:
    moe = make_moe()
    fused = torch.randn(64, WIDTH)
    assert torch.equal(moe(fused)[0], moe(fused)[0])


def test_router_noise_spreads_alike_samples_in_training_only() -> None:
    torch.manual_seed(0)
    moe = SparseMoE(16, MoEConfig(experts=8, top_k=2, router_noise=1.0))
    alike_NF = torch.randn(1, 16).expand(200, 16)
    moe(alike_NF)
    assert int((moe.routed_samples_K > 0).sum()) == 8
    moe.eval()
    routing = moe(alike_NF)[2]
    assert len(routing.expert_index_BJ.unique()) == 2
    quiet = SparseMoE(16, MoEConfig(experts=8, top_k=2))
    quiet(alike_NF)
    assert int((quiet.routed_samples_K > 0).sum()) == 2
