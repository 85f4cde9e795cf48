import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlmoe.tensor_scratch import TensorScratch
from strategies.merge import _PIECE, StreamingMerge

ROWS, COLUMNS = 4, 3


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "whole": torch.randn(5, 2, generator=generator),
        "rows": torch.randn(ROWS, COLUMNS, generator=generator),
        "bias": torch.randn(ROWS, generator=generator),
    }


def weight_of(whole: float, rows: list[float]):
    per_row = torch.tensor(rows, dtype=torch.float64)
    return lambda name: whole if name == "whole" else per_row


site_weights = st.tuples(
    st.sampled_from([0.0, 1.0, 3.5, 1000.0]),
    st.lists(st.sampled_from([0.0, 0.5, 2.0, 700.0]), min_size=ROWS, max_size=ROWS),
)


def numpy_merge(base, updates, weights):
    """sum(w theta) / sum(w) in float64, base where the sum is 0: the formula, with nothing clever about it."""
    merged = {}
    for name, start in base.items():
        value = start.numpy().astype(np.float64)
        w = [np.asarray(whole if name == "whole" else rows, dtype=np.float64) for whole, rows in weights]
        w = [x.reshape(-1, *[1] * (value.ndim - 1)) if x.ndim else x for x in w]
        total = sum(w)
        weighted = sum(x * update[name].numpy().astype(np.float64) for x, update in zip(w, updates, strict=True))
        merged[name] = np.where(total > 0, weighted / np.where(total > 0, total, 1), value)
    return merged


@settings(max_examples=60, deadline=None)
@given(st.lists(site_weights, min_size=1, max_size=6), st.integers(0, 1000))
def test_equals_the_formula(weights, seed: int) -> None:
    base = tensors(seed)
    updates = [tensors(seed + 1 + i) for i in range(len(weights))]
    merge = StreamingMerge(base)
    for update, (whole, rows) in zip(updates, weights, strict=True):
        merge.add(update, weight_of(whole, rows))
    expected = numpy_merge(base, updates, weights)
    for name, merged in merge.result().items():
        np.testing.assert_allclose(merged.numpy(), expected[name], rtol=2e-6, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(site_weights, min_size=1, max_size=4), st.integers(0, 1000))
def test_on_disk_it_is_the_same_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, weights, seed: int) -> None:  # type: ignore[no-untyped-def]
    base = tensors(seed)
    merges = StreamingMerge(base), StreamingMerge(base, TensorScratch(tmp_path_factory.getbasetemp() / "merge"))
    for i, (whole, rows) in enumerate(weights):
        for merge in merges:
            merge.add(tensors(seed + 1 + i), weight_of(whole, rows))
    in_memory, on_disk = (merge.result() for merge in merges)
    assert list(in_memory) == list(on_disk) == list(base)
    assert all(torch.equal(in_memory[name], on_disk[name]) for name in base)


def test_a_large_tensor_is_merged_as_a_whole() -> None:
    """It is computed in pieces: none is left out, none is counted twice."""
    generator = torch.Generator().manual_seed(0)
    base, *updates = ({"whole": torch.randn(3, _PIECE // 2 + 7, generator=generator)} for _ in range(4))
    merge = StreamingMerge(base)
    for update in updates:
        merge.add(update, lambda _: 1.0)
    mean = torch.stack([update["whole"].double() for update in updates]).mean(0)
    torch.testing.assert_close(merge.result()["whole"], mean.float(), rtol=1e-6, atol=1e-6)


def test_a_single_update_passes_through_bit_for_bit() -> None:
    base, update = tensors(0), tensors(1)
    merge = StreamingMerge(base)
    merge.add(update, weight_of(0.1, [0.1, 7.0, 1 / 3, 1e9]))
    assert all(torch.equal(merge.result()[name], update[name]) for name in base)


def test_what_got_no_weight_keeps_its_bytes() -> None:
    base = {"whole": torch.tensor([float("nan"), -0.0]), "rows": torch.randn(ROWS, COLUMNS), "bias": torch.zeros(ROWS)}
    before = {name: tensor.clone() for name, tensor in base.items()}
    merge = StreamingMerge(base)
    for seed in (1, 2):
        update = {"whole": torch.randn(2), **{n: tensors(seed)[n] for n in ("rows", "bias")}}
        merge.add(update, weight_of(0.0, [0.0, 1.0, 0.0, 2.0]))
    result = merge.result()
    assert result["whole"] is base["whole"]
    assert torch.equal(result["rows"][[0, 2]], before["rows"][[0, 2]])
    assert not torch.equal(result["rows"][[1, 3]], before["rows"][[1, 3]])
    assert all(torch.equal(base[n].nan_to_num(), before[n].nan_to_num()) for n in base), (
        "the base itself is not changed"
    )


def test_equal_updates_merge_to_themselves() -> None:
    base, update = tensors(0), tensors(1)
    merge = StreamingMerge(base)
    for weight in (1.0, 2.0, 5.0):
        merge.add(update, weight_of(weight, [weight] * ROWS))
    assert all(torch.equal(merge.result()[name], update[name]) for name in base)


def test_order_of_sites_matters_only_by_rounding() -> None:
    base, updates = tensors(0), [tensors(i) for i in range(1, 6)]
    results = []
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        merge = StreamingMerge(base)
        for i in order:
            merge.add(updates[i], weight_of(i + 1.0, [i + 1.0, 0.0, 1.0, i * 1.0]))
        results.append(merge.result())
    for name in base:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=1e-6, atol=1e-6)


def test_weights_of_any_scale_give_the_same_mean() -> None:
    base, updates = tensors(0), [tensors(1), tensors(2)]
    results = []
    for scale in (1.0, 1e-9, 1e9):
        merge = StreamingMerge(base)
        for update, weight in zip(updates, (1.0, 3.0), strict=True):
            merge.add(update, weight_of(weight * scale, [weight * scale] * ROWS))
        results.append(merge.result()["whole"])
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(results[2], results[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sites", [2, 10])
def test_memory_holds_base_and_mean_only(sites: int) -> None:
    base = {"whole": torch.zeros(1000)}
    merge = StreamingMerge(base)
    for i in range(sites):
        merge.add({"whole": torch.full((1000,), float(i))}, weight_of(1.0, []))
    held = [value for value in vars(merge).values() if isinstance(value, dict)]
    assert sum(t.numel() for d in held for t in d.values()) < 2.1 * 1000
