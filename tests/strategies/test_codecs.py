import numpy as np
import pytest
import torch
from flwr.app import Array
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from strategies.codecs import codec_by_name
from strategies.config import CODECS, UPLOAD_CODECS


@pytest.mark.parametrize("name", CODECS)
def test_round_trip_equals_rounding_to_the_format(name: str) -> None:
    tensor = torch.randn(5, 7) * 10
    codec = codec_by_name(name)
    assert torch.equal(codec.decode(codec.encode(tensor)), tensor.to(getattr(torch, name)).float())


@pytest.mark.parametrize("name", CODECS)
def test_a_second_round_trip_changes_nothing(name: str) -> None:
    codec = codec_by_name(name)
    once = codec.decode(codec.encode(torch.randn(100)))
    assert torch.equal(codec.decode(codec.encode(once)), once)


@settings(max_examples=30)
@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=20))
def test_float32_keeps_every_bit(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    codec = codec_by_name("float32")
    assert torch.equal(codec.decode(codec.encode(tensor)).view(torch.int32), tensor.view(torch.int32))


@pytest.mark.parametrize("name", CODECS)
def test_scalars_and_empty_tensors_keep_their_shape(name: str) -> None:
    codec = codec_by_name(name)
    for shape in [(), (0,), (3, 0), (1, 2, 3)]:
        assert codec.decode(codec.encode(torch.ones(shape))).shape == shape


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="float16 where codec float32"):
        codec_by_name("float32").decode(codec_by_name("float16").encode(torch.ones(2)))


def test_another_shape_is_refused() -> None:
    for name in UPLOAD_CODECS:
        codec = codec_by_name(name)
        with pytest.raises(ValueError, match="has shape"):
            codec.decode(codec.encode(torch.ones(2, 3)), torch.Size((3, 2)))


@pytest.mark.parametrize("name", UPLOAD_CODECS)
@pytest.mark.parametrize("shape", [(), (10,), (4, 5), (2, 3, 4)])
def test_the_bytes_are_those_of_the_array(name: str, shape: tuple[int, ...]) -> None:
    codec = codec_by_name(name)
    assert codec.encode(torch.ones(shape)).numpy().nbytes == codec.byte_count(torch.Size(shape))


def test_bytes_against_float32() -> None:
    shape = torch.Size((512, 1024))
    full = codec_by_name("float32").byte_count(shape)
    assert codec_by_name("bfloat16").byte_count(shape) * 2 == full
    assert 0.25 <= codec_by_name("int8").byte_count(shape) / full < 0.251


matrices = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=0, max_dims=3, max_side=6),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


@settings(max_examples=100, deadline=None)
@given(matrices)
def test_int8_errs_by_at_most_half_a_step_of_its_row(values: np.ndarray) -> None:
    codec, tensor = codec_by_name("int8"), torch.from_numpy(values)
    error = (codec.decode(codec.encode(tensor), tensor.shape) - tensor).double().abs()
    rows = tensor.reshape(1, -1) if tensor.ndim < 2 else tensor.flatten(1)
    step = rows.double().abs().amax(dim=1) / 127
    bound = (step / 2 * (1 + 1e-5) + 127 * torch.finfo(torch.float32).tiny).unsqueeze(1)
    assert bool((error.reshape(rows.shape) <= bound).all())


@settings(max_examples=30, deadline=None)
@given(matrices)
def test_int8_of_the_opposite_is_the_opposite(values: np.ndarray) -> None:
    codec, tensor = codec_by_name("int8"), torch.from_numpy(values)
    assert torch.equal(
        codec.decode(codec.encode(-tensor), tensor.shape), -codec.decode(codec.encode(tensor), tensor.shape)
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_int8_does_not_hide_what_is_not_finite(bad: float) -> None:
    codec = codec_by_name("int8")
    with pytest.raises(ValueError, match="NaN or infinity"):
        codec.decode(codec.encode(torch.tensor([[1.0, 2.0], [bad, 3.0]])))


@pytest.mark.parametrize(
    "values",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.zeros((0, 3), dtype=np.float32),
        np.array(2.5, dtype=np.float32),
    ],
)
def test_arrays_are_read_as_flower_reads_them_and_do_not_share_its_memory(values):
    array = Array(values)
    before = array.data
    decoded = codec_by_name("float32").decode(array)
    assert torch.equal(decoded, torch.from_numpy(array.numpy()))
    decoded.fill_(7.0)
    assert array.data == before


def test_an_array_that_is_cut_short_is_refused():
    array = Array(np.arange(6, dtype=np.float32))
    for length in (0, 5, 40, len(array.data) - 1):
        cut = Array(dtype="float32", shape=(6,), stype="numpy.ndarray", data=array.data[:length])
        with pytest.raises((ValueError, EOFError)):
            codec_by_name("float32").decode(cut)
