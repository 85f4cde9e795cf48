import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.codecs import codec_by_name
from strategies.config import CODECS


@pytest.mark.parametrize("name", CODECS)
def test_round_trip_equals_rounding_to_the_format(name: str) -> None:
    tensor = torch.randn(5, 7) * 10
    codec = codec_by_name(name)
    assert torch.equal(codec.decode(codec.encode(tensor)), tensor.to(codec.value_type).float())


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


def test_half_formats_halve_the_bytes() -> None:
    tensor = torch.ones(10)
    assert codec_by_name("bfloat16").byte_count(tensor) * 2 == codec_by_name("float32").byte_count(tensor)
