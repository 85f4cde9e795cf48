"""Receipts: what a crash leaves is mended, what a hand leaves is found."""

import json
import os
import shutil
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from client.receipts import ReceiptChain
from client.receipts.command import receipts
from client.receipts.receipt import content_digest, describe
from medvlmoe.command_line import run
from medvlmoe.errors import CheckpointError, ConfigError

COUNT = 6


def content(value: float = 1.0) -> RecordDict:
    import numpy as np

    return RecordDict(
        {
            "arrays": ArrayRecord(
                {name: Array(np.full(3, value, np.float32)) for name in ("vision.a", "vision.b", "head.weight")}
            ),
            "metrics": MetricRecord({"round": 1, "train_loss": 0.5}),
            "weights": MetricRecord({"examples": 10.0}),
        }
    )


def entry(server_round: int = 1) -> dict:
    norms = {"vision": 0.25, "head": float("nan")}
    return describe("training", content(), "17", norms, run="trial", server_round=server_round, codec="float32")


def written(folder: Path, count: int = COUNT) -> Path:
    chain = ReceiptChain(folder / "receipts.jsonl")
    for server_round in range(1, count + 1):
        chain.append(entry(server_round))
    return chain.path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("receipts"))


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / original.name


def fault(path: Path) -> str:
    found = ReceiptChain(path).verify().fault
    assert found is not None
    with pytest.raises(CheckpointError, match="nothing leaves"):
        ReceiptChain(path).append(entry())
    assert receipts(["verify", str(path)]) == 2
    return found


def change_lines(path: Path, change) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(change(lines)))


def test_what_a_receipt_says(path: Path) -> None:
    chain = ReceiptChain(path)
    found = chain.receipts()
    assert [receipt.round for receipt in found] == list(range(1, COUNT + 1))
    first = found[0]
    assert (first.kind, first.run, first.flower_run, first.codec) == ("training", "trial", "17", "float32")
    assert first.metrics == ["examples", "train_loss"]
    assert (first.groups["vision"].tensors, first.groups["vision"].norm) == (2, 0.25)
    assert first.groups["vision"].bytes == 2 * first.groups["head"].bytes and first.groups["head"].norm is None
    assert receipts(["verify", str(path)]) == 0


@pytest.mark.parametrize("line", range(1, COUNT + 1))
def test_a_removed_line_is_named(path: Path, line: int) -> None:
    change_lines(path, lambda lines: lines[: line - 1] + lines[line:])
    assert f"line {line} " in fault(path)


@pytest.mark.parametrize("line", range(1, COUNT))
def test_two_lines_in_another_order_are_named(path: Path, line: int) -> None:
    change_lines(path, lambda lines: [*lines[: line - 1], lines[line], lines[line - 1], *lines[line + 1 :]])
    assert f"line {line} " in fault(path)


@pytest.mark.parametrize("line", range(1, COUNT + 1))
def test_a_line_that_is_there_twice_is_named(path: Path, line: int) -> None:
    change_lines(path, lambda lines: [*lines[:line], lines[line - 1], *lines[line:]])
    assert f"line {line + 1} " in fault(path)


@pytest.mark.parametrize("line", [1, 3, COUNT])
@pytest.mark.parametrize("field", ["time", "round", "metrics", "sha256", "groups", "previous", "number", "hash"])
def test_an_altered_line_is_named(path: Path, line: int, field: str) -> None:
    def alter(lines: list[str]) -> list[str]:
        value = json.loads(lines[line - 1])
        value[field] = {"time": "2020-01-01T00:00:00+00:00", "groups": {}, "metrics": [], "number": 9}.get(field, 7)
        return [*lines[: line - 1], json.dumps(value) + "\n", *lines[line:]]

    change_lines(path, alter)
    assert f"line {line} " in fault(path)


@pytest.mark.parametrize("line", [1, 3, COUNT])
def test_an_altered_line_with_a_hash_to_match_is_named(path: Path, line: int) -> None:
    """Whoever knows how the hash is made must still rewrite all lines after it, and the second file."""

    def alter(lines: list[str]) -> list[str]:
        from dataclasses import asdict, replace

        old = ReceiptChain(path).receipts()[line - 1]
        new = replace(old, metrics=[])
        new = replace(new, hash=new.own_hash())
        return [*lines[: line - 1], json.dumps(asdict(new)) + "\n", *lines[line:]]

    change_lines(path, alter)
    assert f"line {min(line + 1, COUNT)} " in fault(path)


@pytest.mark.parametrize("kept", range(COUNT))
def test_lines_cut_off_at_the_end_are_missed(path: Path, kept: int) -> None:
    change_lines(path, lambda lines: lines[:kept])
    assert f"line {kept + 1} is missing: {COUNT} receipts were written, {kept} are there" in fault(path)


def test_a_file_that_is_gone_is_missed(path: Path) -> None:
    path.unlink()
    assert ReceiptChain(path).verify().fault == f"line 1 is missing: {COUNT} receipts were written, 0 are there"


def test_lines_that_the_second_file_does_not_know_are_named(path: Path) -> None:
    path.with_name("receipts.jsonl.head").unlink()
    assert "line 2 is not known" in fault(path)


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1), byte=st.integers(1, 255))
def test_any_byte_changed_anywhere_is_found(original: Path, tmp_path_factory, place: float, byte: int) -> None:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(original.parent, folder, dirs_exist_ok=True)
    copy = folder / original.name
    data = bytearray(copy.read_bytes())
    position = min(int(place * len(data)), len(data) - 1)
    data[position] ^= byte
    copy.write_bytes(bytes(data))
    same_meaning = _loaded(original.read_bytes()) == _loaded(bytes(data))
    assert (ReceiptChain(copy).verify().fault is None) is same_meaning


def _loaded(data: bytes) -> list | None:
    try:
        # Not splitlines(): a carriage return in the place of a blank is a blank to JSON.
        return [json.loads(line) for line in data.split(b"\n")[:-1]]
    except ValueError:
        return None


@pytest.mark.parametrize("size", [1, 50, -2])
def test_a_line_torn_by_a_crash_never_breaks_the_chain(path: Path, size: int) -> None:
    line = path.read_bytes().splitlines()[-1]
    with open(path, "ab") as file:
        file.write(line[:size])
    assert ReceiptChain(path).verify().fault is None and ReceiptChain(path).verify().torn
    assert receipts(["verify", str(path)]) == 0
    ReceiptChain(path).append(entry())
    assert len(ReceiptChain(path).receipts()) == COUNT + 1


def test_a_crash_between_the_two_files_never_breaks_the_chain(path: Path) -> None:
    head = path.with_name("receipts.jsonl.head")
    before = head.read_bytes()
    ReceiptChain(path).append(entry())
    head.write_bytes(before)
    assert len(ReceiptChain(path).receipts()) == COUNT + 1
    ReceiptChain(path).append(entry())
    assert len(ReceiptChain(path).receipts()) == COUNT + 2


def test_many_processes_write_one_after_the_other(tmp_path: Path) -> None:
    children = []
    for _ in range(4):
        if (child := os.fork()) == 0:
            try:
                written(tmp_path, 5)
            finally:
                os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(ReceiptChain(tmp_path / "receipts.jsonl").receipts()) == 20


def test_the_digest_tells_contents_apart() -> None:
    assert content_digest(content()) == content_digest(content())
    renamed, reweighed = content(), content()
    renamed["arrays"]["vision.c"] = renamed["arrays"].pop("vision.b")
    reweighed["weights"]["examples"] = 11.0
    digests = {content_digest(one) for one in (content(), content(1.5), renamed, reweighed)}
    assert len(digests) == 4


def test_commands(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("name: north\nfolder: .\ndataset: {kind: manifest, root: images}\n")
    assert run(["receipts", "verify", str(site)]) == 0
    assert f"{COUNT} receipts, the chain holds" in capsys.readouterr().out
    assert run(["receipts", "show", str(path)]) == 0
    assert "training  trial round 1" in capsys.readouterr().out
    change_lines(path, lambda lines: lines[1:])
    assert run(["receipts", "verify", str(site)]) == 2
    assert "line 1 " in capsys.readouterr().out
    assert run(["receipts", "burn", str(path)]) == 2
    with pytest.raises(ConfigError, match="no file"):
        receipts(["verify", str(tmp_path / "none.jsonl")])
