"""Reading weights: nothing runs, nothing is half loaded."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medvlmoe.errors import CheckpointError
from medvlmoe.model.memory import without_memory
from medvlmoe.model.weights import find_weights, load_exactly, read_weights

STATE = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


def read(path: Path) -> dict[str, Tensor]:
    return read_weights(find_weights(path, "model.x.weights"))


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_pickle_with_code_is_refused_and_does_not_run(kind: str, tmp_path: Path) -> None:
    trap = tmp_path / "code ran"
    content = {**STATE, "extra": RunsCode(trap)}
    if kind == "plain":
        (tmp_path / "model.bin").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "model.bin", _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match="holds more than tensors and was not opened") as caught:
        read(tmp_path / "model.bin")
    assert "\n" not in str(caught.value)
    assert not trap.exists()
    with open(tmp_path / "model.bin", "rb") as file:  # the trap works where it is opened carelessly
        torch.load(file, weights_only=False) if kind != "plain" else pickle.load(file)
    assert trap.exists()


def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read(tmp_path / "model.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pth", ".pt"])
@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_damaged_file_is_one_line(suffix: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    save_file(STATE, path) if suffix == ".safetensors" else torch.save(STATE, path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"version https://git-lfs\n"}[damage])
    with pytest.raises(CheckpointError, match="model") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 4},
    lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
])  # fmt: skip
def test_wrapping_is_taken_off(wrap: Any, tmp_path: Path) -> None:
    torch.save(wrap(STATE), tmp_path / "model.pt")
    found = read(tmp_path / "model.pt")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"a": torch.ones(1), "b": "text"}, torch.ones(2)])
def test_what_is_not_names_and_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="not a mapping of names to tensors"):
        read(tmp_path / "model.pt")


def test_directory_prefers_safetensors_and_refuses_to_guess(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights file"):
        read(tmp_path)
    torch.save(STATE, tmp_path / "best.pth")
    assert find_weights(tmp_path, "key").name == "best.pth"
    torch.save(STATE, tmp_path / "last.pth")
    with pytest.raises(CheckpointError, match=r"key=.* several weights files \(best.pth, last.pth\); name the file"):
        find_weights(tmp_path, "key")
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    assert find_weights(tmp_path, "key").name == "pytorch_model.bin"
    save_file(STATE, tmp_path / "model.safetensors")
    assert find_weights(tmp_path, "key").name == "model.safetensors"


def write_pieces(folder: Path, place: dict[str, str]) -> None:
    for name, file in place.items():
        if (folder / file).parent == folder:
            save_file({name: STATE[name]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))


def test_model_in_pieces(tmp_path: Path) -> None:
    write_pieces(tmp_path, {"weight": "model-1.safetensors", "bias": "model-2.safetensors"})
    assert read(tmp_path).keys() == STATE.keys()
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"'model-2\.safetensors', which is no file"):
        read(tmp_path)
    save_file({"other": torch.ones(1)}, tmp_path / "model-2.safetensors")
    with pytest.raises(CheckpointError, match=r"lists 1 tensors that its files lack \(bias\)"):
        read(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        read(tmp_path)


def test_index_cannot_point_out_of_its_directory(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    save_file(STATE, tmp_path / "outside.safetensors")
    write_pieces(tmp_path / "inside", {"weight": "../outside.safetensors"})
    with pytest.raises(CheckpointError, match="no file beside it"):
        read(tmp_path / "inside")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_non_finite_weights_are_refused_by_name(value: float, kind: torch.dtype) -> None:
    weight = torch.ones(2, 3, dtype=kind)
    weight[1, 2] = value
    with pytest.raises(CheckpointError, match=r"1 tensors hold NaN or infinity \(weight\)"):
        load_exactly(nn.Linear(3, 2), {**STATE, "weight": weight}, Path("here"), "layer")


def test_a_refused_load_changes_nothing() -> None:
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    with pytest.raises(CheckpointError, match=r"here does not fit the layer: tensors 1 missing \(bias\)"):
        load_exactly(layer, {"weight": torch.ones(2, 3)}, Path("here"), "layer")
    assert torch.equal(layer.weight, before)


def test_long_lists_are_cut_but_counted() -> None:
    with pytest.raises(CheckpointError, match=r"9 unexpected \(0, 1, 2, 3, 4, …\)"):
        load_exactly(nn.Identity(), {str(i): torch.ones(1) for i in range(9)}, Path("here"), "layer")


def test_loaded_parameters_share_no_memory() -> None:
    """Tied tensors of a pickle lie in one memory; as parameters they must move on their own."""
    together = torch.arange(12.0)
    layers = without_memory(lambda: nn.ModuleList([nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)]))
    tied = {"0.weight": together[:6].view(2, 3), "1.weight": together[:6].view(2, 3)}
    load_exactly(layers, tied, Path("here"), "layers")
    with torch.no_grad():
        layers[0].weight.zero_()  # type: ignore[union-attr, operator]
    assert torch.equal(layers[1].weight, together[:6].view(2, 3))  # type: ignore[arg-type]
