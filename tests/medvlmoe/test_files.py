import json
import resource
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medvlmoe.errors import CheckpointError
from medvlmoe.files import (
    LayeredTensors,
    RenamedTensors,
    TensorFile,
    append_json_line,
    load_tensors,
    read_json_lines,
    save_tensors,
    write_atomically,
    write_json,
    write_text,
)


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4), "c": torch.randn(2, 2).t()}
    save_tensors(tmp_path / "deep" / "x.safetensors", tensors, {"round": "3"})
    loaded, metadata = load_tensors(tmp_path / "deep" / "x.safetensors")
    assert metadata == {"round": "3"}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_file_of_tensors_has_the_bytes_that_safetensors_itself_writes(tmp_path: Path) -> None:
    tensors = {
        "z": torch.randn(3, 2), "a": torch.arange(4), "scalar": torch.tensor(2.5), "none": torch.empty(0, 3),
        "half": torch.randn(5).half(), "brain": torch.randn(5).bfloat16(), "flag": torch.tensor([True, False, True]),
        "ä": torch.arange(7, dtype=torch.int8), "wide": torch.randn(2, dtype=torch.float64),
    }  # fmt: skip
    save_tensors(tmp_path / "ours", tensors, {"round": '"3"'})
    save_file(tensors, tmp_path / "theirs", metadata={"round": '"3"'})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_tensor_at_a_time_is_asked_for_and_let_go_of(tmp_path: Path) -> None:
    class Counting(dict[str, torch.Tensor]):
        def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
            super().__init__(tensors)
            self.alive: list[weakref.ref[torch.Tensor]] = []
            self.most = 0

        def __getitem__(self, name: str) -> torch.Tensor:
            tensor = super().__getitem__(name).clone()
            self.alive.append(weakref.ref(tensor))
            self.most = max(self.most, sum(reference() is not None for reference in self.alive))
            return tensor

        def items(self):  # type: ignore[no-untyped-def]
            return ((name, self[name]) for name in self)

    tensors = Counting({str(number): torch.randn(10) for number in range(20)})
    save_tensors(tmp_path / "x.safetensors", tensors)
    assert tensors.most <= 2
    assert load_tensors(tmp_path / "x.safetensors")[0].keys() == tensors.keys()


def test_a_later_layer_hides_an_earlier_one() -> None:
    below, above = {"a": torch.zeros(1), "b": torch.zeros(1)}, {"b": torch.ones(1), "c": torch.ones(1)}
    layered = LayeredTensors(below, above)
    assert list(layered) == ["a", "b", "c"] and len(layered) == 3
    assert layered["a"] is below["a"] and layered["b"] is above["b"] and "d" not in layered
    with pytest.raises(KeyError):
        layered["d"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"good": 1})

    def half(temporary: Path) -> None:
        temporary.write_text('{"go')
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_atomically(path, half)
    assert json.loads(path.read_text()) == {"good": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    """A real limit of the operating system on file size stands for the full disk: the write itself fails."""
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"weight": torch.zeros(10)})
    script = f"""
import resource, signal, torch
from pathlib import Path
from medvlmoe.errors import CheckpointError
from medvlmoe.files import save_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.getrlimit(resource.RLIMIT_FSIZE)[1]}))
try:
    save_tensors(Path({str(path)!r}), {{"weight": torch.ones(100_000)}})
except CheckpointError as error:
    print(error)
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot write" in finished.stdout and "free space" in finished.stdout
    assert torch.equal(load_tensors(path)[0]["weight"], torch.zeros(10))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 7, 100])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        load_tensors(path)


def test_a_torn_line_is_not_read_and_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    append_json_line(path, {"round": 1})
    with open(path, "a") as file:
        file.write('{"round": 2, "sit')
    assert list(read_json_lines(path)) == [{"round": 1}]
    append_json_line(path, {"round": 2})
    assert list(read_json_lines(path)) == [{"round": 1}, {"round": 2}]


def test_nan_is_not_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"auc": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_tensor_file_reads_what_was_saved_and_outlives_its_file(tmp_path: Path) -> None:
    path, saved = tmp_path / "model.safetensors", {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}
    save_tensors(path, saved)
    found = TensorFile(path)
    path.unlink()
    assert set(found) == {"a", "b"}
    assert all(torch.equal(found[name], saved[name]) for name in saved)
    found["a"].zero_()  # a tensor read is the reader's own
    assert torch.equal(found["a"], saved["a"])
    with pytest.raises(KeyError):
        found["c"]


def test_a_tensor_file_tells_shapes_and_notes_without_the_tensors(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2, 3), "b": torch.tensor(1.0)}, {"round": "3"})
    file = TensorFile(tmp_path / "x.safetensors")
    assert (file.shape_of("a"), file.shape_of("b")) == ((2, 3), ())
    assert file.metadata() == {"round": "3"}


def test_a_tensor_file_shows_the_asked_names_and_misses_none(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"a": torch.ones(1), "b": torch.ones(1)})
    assert list(TensorFile(path, ["b"])) == ["b"]
    with pytest.raises(CheckpointError, match="no tensor 'c'"):
        TensorFile(path, ["a", "c"])
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        TensorFile(path)


def test_renamed_tensors_are_looked_up_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    save_tensors(path, {"model/a": torch.ones(1), "model/b": torch.zeros(1), "optimizer/a": torch.ones(2)})
    model = RenamedTensors(TensorFile(path), "model/")
    assert list(model) == ["a", "b"] and len(model) == 2
    assert torch.equal(model["a"], torch.ones(1))
    with pytest.raises(KeyError):
        model["c"]


def test_an_error_names_the_key_that_the_command_has(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below_a_file = tmp_path / "file" / "x.json"
    for write in (write_text, write_json, append_json_line):
        with pytest.raises(CheckpointError, match=r"cannot write .*; free space or choose another output\.root$"):
            write(below_a_file, "")
        with pytest.raises(CheckpointError, match=r"; free space or choose another report$"):
            write(below_a_file, "", key="report")
        with pytest.raises(CheckpointError, match=r"; free space, or let this user write there$"):
            write(below_a_file, "", key=None)
