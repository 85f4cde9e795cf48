"""The merge of client-level privacy: its sensitivity, its noise, its memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlmoe.errors import ConfigError
from medvlmoe.model.groups import parameter_group
from medvlmoe.tensor_scratch import TensorScratch
from strategies.private_merge import PrivateMerge, noise_deviations
from strategies.update_blocks import UpdateBlocks
from strategies.weights import GroupWeights

EXPERTS, LABELS = 2, 3
SHAPES = {
    "vision.conv": (4, 3), "fusion.gate": (5,), "moe.router.weight": (EXPERTS, 6), "moe.experts.0.first.weight": (2, 2),
    "moe.experts.1.first.weight": (2, 2), "head.weight": (LABELS, 6), "head.bias": (LABELS,),
}  # fmt: skip
GROUPS = [parameter_group(name) for name in SHAPES]
BLOCKS = UpdateBlocks.of(GROUPS, 1.5, {"vision": 0.5, "expert.*": 0.1})


def tensors(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


class Silence(np.random.Generator):
    """A generator of noise that is none, to look at what is below it."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def standard_normal(self, size=None, *_):  # type: ignore[no-untyped-def]
        return np.zeros(size)


def merge_of(base, sites, blocks=BLOCKS, cap=None, noise=1.0, count=5, random=None) -> PrivateMerge:  # type: ignore[no-untyped-def]
    merge = PrivateMerge(
        base, blocks, noise_multiplier=noise, site_count=count, weight_cap=cap, random=random or Silence()
    )
    for update, weights in sites:
        merge.add(update, weights.of)
    return merge


non_negative = st.sampled_from([0.0, 1e-3, 1.0, 17.0, 1e6])
weights = st.builds(
    GroupWeights,
    non_negative,
    st.lists(non_negative, min_size=EXPERTS, max_size=EXPERTS).map(lambda w: torch.tensor(w, dtype=torch.float64)),
    st.lists(non_negative, min_size=LABELS, max_size=LABELS).map(lambda w: torch.tensor(w, dtype=torch.float64)),
)
sites = st.tuples(st.builds(tensors, st.integers(1, 10**6), st.sampled_from([0.0, 1e-4, 0.1, 1.0, 1e6])), weights)


def test_on_disk_it_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    base = tensors(0)
    results = []
    for store in (None, TensorScratch(tmp_path)):
        merge = PrivateMerge(
            base, BLOCKS, noise_multiplier=1.0, site_count=3, weight_cap=None, random=np.random.default_rng(5),
            store=store,
        )  # fmt: skip
        for seed in (1, 2):
            merge.add(tensors(seed), lambda name: 1.0)
        results.append(merge.result())
    assert results[0].keys() == results[1].keys() == base.keys()
    assert all(torch.equal(results[0][name], results[1][name]) for name in base)


@settings(max_examples=80, deadline=None)
@given(st.lists(sites, max_size=4), sites, st.sampled_from([None, 1.0, 100.0]), st.integers(0, 4))
def test_adding_or_removing_a_site_changes_the_sum_by_no_more_than_the_bounds(others, one, cap, position: int) -> None:
    base = tensors(0)
    without = merge_of(base, others, cap=cap)
    with_it = merge_of(base, [*others[:position], one, *others[position:]], cap=cap)
    square = dict.fromkeys(BLOCKS.bounds, 0.0)
    for name in SHAPES:
        zero = torch.zeros(SHAPES[name])
        difference = with_it.totals().get(name, zero).double() - without.totals().get(name, zero).double()
        square[BLOCKS.block_of[parameter_group(name)]] += float(difference.square().sum())
    for block, bound in BLOCKS.bounds.items():
        assert square[block] ** 0.5 <= bound * (1 + 1e-5)
    # In units of the noise, all blocks together: the noise multiplier's reciprocal.
    for noise in (0.5, 4.0):
        deviations = noise_deviations(BLOCKS.bounds, noise)
        assert sum(square[b] / deviations[b] ** 2 for b in square) ** 0.5 <= (1 + 1e-5) / noise
    bits = [with_it.below()[block] - without.below()[block] for block in BLOCKS.bounds]
    assert sum(bit**2 for bit in bits) ** 0.5 <= len(bits) ** 0.5 / 2


def test_the_bound_is_reached_so_it_is_not_merely_generous() -> None:
    base = tensors(0)
    full = GroupWeights(1.0, torch.ones(EXPERTS), torch.ones(LABELS))
    totals = merge_of(base, [(tensors(1, 1e3), full)]).totals()
    for block, bound in BLOCKS.bounds.items():
        parts = [t for name, t in totals.items() if BLOCKS.block_of[parameter_group(name)] == block]
        assert sum(float(t.double().square().sum()) for t in parts) ** 0.5 == pytest.approx(bound, rel=1e-5)


def test_the_ordinary_weighted_mean_has_no_such_bound() -> None:
    """Why there is another merge at all."""
    from strategies.merge import StreamingMerge

    base, small = tensors(0), {name: t + 1e-3 for name, t in tensors(0).items()}
    ordinary = StreamingMerge(base)
    ordinary.add(small, lambda name: 1.0)
    before = ordinary.result()["vision.conv"].clone()
    ordinary.add({name: t + 1e3 for name, t in base.items()}, lambda name: 1e6)
    assert float((ordinary.result()["vision.conv"] - before).norm()) > 100


@settings(max_examples=40, deadline=None)
@given(st.lists(sites, min_size=1, max_size=4), st.sampled_from([None, 10.0]))
def test_streaming_equals_the_formula_on_the_whole_batch(given_sites, cap) -> None:
    base = tensors(0)
    merged = merge_of(base, given_sites, cap=cap, count=7).result()
    for name, start in base.items():
        block = BLOCKS.block_of[parameter_group(name)]
        expected = np.zeros(SHAPES[name])
        for update, site_weights in given_sites:
            names = [n for n in SHAPES if BLOCKS.block_of[parameter_group(n)] == block]
            norm = np.sqrt(
                sum(np.sum((update[n].numpy().astype(float) - base[n].numpy().astype(float)) ** 2) for n in names)
            )
            weight = np.asarray(site_weights.of(name), dtype=float)
            share = np.minimum(1, weight / cap) if cap else (weight > 0).astype(float)
            share = share.reshape(-1, *[1] * (start.ndim - 1)) if share.ndim else share
            change = update[name].numpy().astype(float) - start.numpy().astype(float)
            expected += share * change * min(1.0, BLOCKS.bounds[block] / max(norm, 1e-300))
        np.testing.assert_allclose(merged[name].numpy(), start.numpy() + expected / 7, rtol=1e-5, atol=1e-6)


def test_the_order_of_the_sites_matters_only_by_rounding() -> None:
    base, full = tensors(0), GroupWeights(3.0, torch.ones(EXPERTS), torch.ones(LABELS))
    updates = [(tensors(i), full) for i in range(1, 6)]
    a, b = merge_of(base, updates).result(), merge_of(base, updates[::-1]).result()
    for name in base:
        torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("holders", [0, 1])
def test_noise_has_the_claimed_scale_in_every_block_whether_or_not_anybody_used_it(holders: int) -> None:
    base = {
        "vision.conv": torch.zeros(200, 200),
        "moe.experts.0.w": torch.zeros(200, 200),
        "head.bias": torch.zeros(40_000),
    }
    blocks = UpdateBlocks.of(["vision", "expert.0", "head"], 2.0, {"expert.*": 0.1, "head": 5.0})
    weights = GroupWeights(1.0, torch.zeros(1), torch.ones(40_000))
    sites = [(dict(base), weights)] * holders
    merged = merge_of(base, sites, blocks, noise=3.0, count=10, random=np.random.default_rng(0)).result()
    for name, block, bound in (
        ("vision.conv", "rest", 2.0),
        ("moe.experts.0.w", "expert.0", 0.1),
        ("head.bias", "head", 5.0),
    ):
        expected = 3.0 * bound * 3**0.5 / 10
        assert noise_deviations(blocks.bounds, 3.0)[block] / 10 == pytest.approx(expected)
        assert merged[name].std().item() == pytest.approx(expected, rel=0.02)  # 40,000 draws: 0.35 % standard error
        assert abs(merged[name].mean().item()) < 5 * expected / 200


def test_noise_is_independent_between_tensors_and_rounds() -> None:
    base = {"vision.a": torch.zeros(10_000), "vision.b": torch.zeros(10_000)}
    blocks = UpdateBlocks.of(["vision"], 1.0, {})
    random = np.random.default_rng(1)
    first, second = (merge_of(base, [], blocks, random=random).result() for _ in range(2))
    draws = torch.stack([first["vision.a"], first["vision.b"], second["vision.a"], second["vision.b"]])
    assert (torch.corrcoef(draws) - torch.eye(4)).abs().max() < 0.05


@pytest.mark.parametrize("count", [2, 12])
def test_memory_does_not_grow_with_the_sites(count: int) -> None:
    base = {"vision.conv": torch.zeros(1000)}
    full = GroupWeights(1.0, torch.ones(1), torch.ones(1))
    merge = merge_of(base, [({"vision.conv": torch.full((1000,), float(i))}, full) for i in range(count)],
                     UpdateBlocks.of(["vision"], 1.0, {}))  # fmt: skip
    held = [t for value in vars(merge).values() if isinstance(value, dict) for t in value.values()]
    assert sum(t.numel() for t in held if isinstance(t, torch.Tensor)) <= 2000


def test_blocks_follow_patterns_and_the_rest_is_one() -> None:
    assert BLOCKS.bounds == {"vision": 0.5, "expert.0": 0.1, "expert.1": 0.1, "rest": 1.5}
    assert {BLOCKS.block_of[g] for g in ("fusion", "router", "head")} == {"rest"}


def test_a_pattern_that_fits_no_group_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_group_norms\.visoin: no parameter group .* vision, fusion"):
        UpdateBlocks.of(GROUPS, 1.0, {"visoin": 1.0})
