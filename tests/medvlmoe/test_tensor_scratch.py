"""A scratch file behaves as a dictionary of tensors does, leaves nothing behind, and says when its disk is full."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlmoe.errors import CheckpointError
from medvlmoe.tensor_scratch import TensorScratch

TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]
steps = st.tuples(
    st.sampled_from("abc"), st.sampled_from([(), (0,), (3,), (2, 5)]), st.sampled_from(TYPES), st.booleans()
)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=12), st.integers(0, 1000))
def test_it_is_a_dictionary(tmp_path_factory: pytest.TempPathFactory, taken, seed: int) -> None:  # type: ignore[no-untyped-def]
    scratch, plain = TensorScratch(tmp_path_factory.getbasetemp() / "scratch"), {}
    generator = torch.Generator().manual_seed(seed)
    for name, shape, dtype, delete in taken:
        if delete and name in plain:
            del scratch[name], plain[name]
        else:
            plain[name] = (100 * torch.randn(shape, generator=generator)).to(dtype)
            scratch[name] = plain[name]
    assert list(scratch) == list(plain) and len(scratch) == len(plain)
    for name, tensor in plain.items():
        assert scratch[name].dtype == tensor.dtype and torch.equal(scratch[name], tensor)


def test_what_is_looked_up_is_a_copy_and_what_is_stored_need_not_be_contiguous(tmp_path: Path) -> None:
    scratch = TensorScratch(tmp_path)
    scratch["a"] = torch.arange(6.0).reshape(2, 3).t()
    scratch["a"].zero_()
    assert torch.equal(scratch["a"], torch.arange(6.0).reshape(2, 3).t())


def test_storing_again_takes_no_more_room_and_nothing_is_left_behind(tmp_path: Path) -> None:
    scratch = TensorScratch(tmp_path)
    for value in range(5):
        scratch["a"] = torch.full((1000,), float(value))
    assert scratch._file.seek(0, 2) == 4000
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    """A real limit of the operating system on file size stands for the full disk: the write itself fails."""
    script = f"""
import resource, signal, torch
from pathlib import Path
from medvlmoe.errors import CheckpointError
from medvlmoe.tensor_scratch import TensorScratch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.getrlimit(resource.RLIMIT_FSIZE)[1]}))
try:
    TensorScratch(Path({str(tmp_path)!r}))["weight"] = torch.ones(100_000)
except CheckpointError as error:
    print(error)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert str(tmp_path) in answer.stdout and "free space" in answer.stdout


def test_a_folder_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"output\.root"):
        TensorScratch(tmp_path / "file" / "below")
