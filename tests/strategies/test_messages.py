"""The message contract: what goes in comes out, and everything malformed is refused by name."""

import json
import math
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from medvlmoe.data import LabelSpace
from medvlmoe.model import MedVLMoEConfig
from medvlmoe.training.config import TrainingConfig
from strategies.codecs import codec_by_name
from strategies.config import CODECS
from strategies.messages import (
    InvalidMessageError,
    RoundConfig,
    SiteIntroduction,
    SiteUpdate,
    build_evaluation_reply,
    build_introduction,
    build_introduction_request,
    build_reply,
    build_request,
    read_evaluation_reply,
    read_introduction,
    read_introduction_request,
    read_reply,
    read_request,
)

SPACE = LabelSpace.known("diabetic_retinopathy")
BASE = {"vision.a": torch.randn(3, 2), "head.weight": torch.randn(5, 2)}


def round_config(**changes: object) -> RoundConfig:
    values = {
        "run": "run-1", "round": 2, "rounds": 5, "local_epochs": 1, "keep_optimizer_state": True, "seed": 3,
        "model": MedVLMoEConfig(), "label_space": SPACE, "training": TrainingConfig(batch_size=7), "splits": ("test",),
    }  # fmt: skip
    return RoundConfig(**{**values, **changes})  # type: ignore[arg-type]


def update(**changes: object) -> SiteUpdate:
    values = {
        "round": 2, "tensors": {name: tensor + 1 for name, tensor in BASE.items()}, "examples": 10.0,
        "routed_samples_K": torch.tensor([4.0, 0.0, 16.0]), "observed_labels_Y": torch.arange(5.0),
        "metrics": {"train_loss": 0.5},
    }  # fmt: skip
    return SiteUpdate(**{**values, **changes})  # type: ignore[arg-type]


def read(content: RecordDict) -> SiteUpdate:
    return read_reply(content, base=BASE, codec="float32", server_round=2, expert_count=3, label_count=5)


@pytest.mark.parametrize("codec", CODECS)
def test_a_request_comes_back(codec: str) -> None:
    request = read_request(build_request(round_config(), BASE, codec, "int8"))
    assert request.config == round_config()
    assert (request.reply_codec, request.version) == ("int8", version("medvlmoe"))
    assert read_request(build_request(round_config(), BASE, codec)).reply_codec == codec
    for name, tensor in BASE.items():
        torch.testing.assert_close(request.tensors[name], tensor, rtol=0.01, atol=0.01)


def test_a_reply_comes_back() -> None:
    found = read(build_reply(update(), "float32"))
    assert found.examples == 10.0 and found.metrics == {"train_loss": 0.5}
    assert torch.equal(found.routed_samples_K, update().routed_samples_K.double())
    assert all(torch.equal(found.tensors[name], update().tensors[name]) for name in BASE)


class CountingArray(Array):
    """Stands for one whose bytes lie on disk: each look at them is a look at the disk."""

    looks = 0

    def __init__(self, array: Array) -> None:
        self.dtype, self.shape, self.stype = array.dtype, array.shape, array.stype
        self.__dict__["_bytes"] = array.data

    @property
    def data(self) -> bytes:  # type: ignore[override]
        CountingArray.looks += 1
        return self.__dict__["_bytes"]


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int8"])
def test_the_bytes_of_an_array_are_read_once(monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    content = build_reply(update(), codec)
    for name, array in list(content["arrays"].items()):
        content["arrays"][name] = CountingArray(array)
    found = read_reply(content, base=BASE, codec=codec, server_round=2, expert_count=3, label_count=5)
    monkeypatch.setattr(CountingArray, "looks", 0)
    assert found.tensors["vision.a"].shape == (3, 2)
    assert CountingArray.looks == 1


def spoiled_request(change: Callable[[dict], None]) -> RecordDict:
    content = build_request(round_config(), BASE, "float32")
    decided = json.loads(str(content["config"]["round"]))
    change(decided)
    content["config"]["round"] = json.dumps(decided)
    return content


@pytest.mark.parametrize("part", [None, "training", "model"])
@pytest.mark.parametrize("key", ["device", "data_root", "dataset", "folder", "policy", "upload_images_to"])
def test_a_server_cannot_set_what_is_the_sites_own(part: str | None, key: str) -> None:
    def change(decided: dict) -> None:
        (decided if part is None else decided[part])[key] = "/etc"

    with pytest.raises(InvalidMessageError, match=key):
        read_request(spoiled_request(change))


@pytest.mark.parametrize("key", ["site-config", "policy", "overrides"])
def test_nor_beside_the_round(key: str) -> None:
    content = build_request(round_config(), BASE, "float32")
    content["config"][key] = "mine"
    with pytest.raises(InvalidMessageError, match=key):
        read_request(content)
    query = build_introduction_request()
    query["config"][key] = "mine"
    with pytest.raises(InvalidMessageError, match=key):
        read_introduction_request(query)


@pytest.mark.parametrize(
    "change",
    [
        lambda decided: decided.update(run="../../etc"),
        lambda decided: decided.update(run=7),
        lambda decided: decided.update(run="x" * 200),
        lambda decided: decided.update(training=[]),
        lambda decided: decided["training"].update(batch_size=-1),
        lambda decided: decided.pop("seed"),
        lambda decided: decided.update(label_space=3),
        lambda decided: decided.update(splits=5),
    ],
)
def test_a_malformed_round_is_refused(change: Callable[[dict], None]) -> None:
    with pytest.raises(InvalidMessageError):
        read_request(spoiled_request(change))


@pytest.mark.parametrize(("key", "value"), [("codec", "int8"), ("codec", "pickle"), ("reply_codec", "pickle")])
def test_a_request_in_a_format_that_is_none_is_refused(key: str, value: str) -> None:
    content = build_request(round_config(), BASE, "float32")
    content["config"][key] = value
    with pytest.raises(InvalidMessageError, match=value):
        read_request(content)


def change_arrays(content: RecordDict, change: Callable[[ArrayRecord], None]) -> RecordDict:
    change(content["arrays"])
    return content


def put(name: str, value: np.ndarray) -> Callable[[ArrayRecord], None]:
    return lambda arrays: arrays.__setitem__(name, Array(value))


BAD_ARRAYS = {
    "'vision.a' is missing": lambda arrays: arrays.pop("vision.a"),
    "'extra' was not asked for": put("extra", np.zeros(1, dtype=np.float32)),
    "'vision.a' has shape": put("vision.a", np.zeros((2, 3), dtype=np.float32)),
    "shape \\(1,\\)": put("vision.a", np.zeros(1, dtype=np.float32)),
    "float64 where": put("vision.a", np.zeros((3, 2))),
    "'vision.a' holds NaN": put("vision.a", np.full((3, 2), np.nan, dtype=np.float32)),
    "'head.weight' holds NaN or inf": put("head.weight", np.full((5, 2), -np.inf, dtype=np.float32)),
}


@pytest.mark.parametrize("message", BAD_ARRAYS)
def test_bad_arrays_are_refused_by_name(message: str) -> None:
    with pytest.raises(InvalidMessageError, match=message):
        read(change_arrays(build_reply(update(), "float32"), BAD_ARRAYS[message]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"round": 1}, "answers round 1"),
        ({"examples": -1.0}, "'examples' is negative"),
        ({"examples": 0.0}, "nothing was trained"),
        ({"examples": math.nan}, "'examples' is negative or not finite"),
        ({"routed_samples_K": torch.tensor([1.0, -1.0, 1.0])}, "'routed_samples' is negative"),
        ({"routed_samples_K": torch.ones(2)}, "has 2 numbers, not 3"),
        ({"observed_labels_Y": torch.full((5,), math.inf)}, "'observed_labels' is negative or not finite"),
    ],
)
def test_bad_weights_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidMessageError, match=message):
        read(build_reply(update(**changes), "float32"))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({f"m{number}": 1.0 for number in range(2001)}, r"200\d metrics, more than 2000"),
        ({"a": [0.0] * 60_000, "b": [0.0] * 60_000}, "more than 100000 numbers"),
        ({"x" * 201: 1.0}, "a metric is called 'x"),
        ({"line\nbreak": 1.0}, "a metric is called"),
        ({"train_loss": math.nan}, "'train_loss' is not finite"),
        ({"train_loss": [1.0, math.inf]}, "'train_loss' is not finite"),
    ],
)
def test_metrics_that_would_fill_files_and_tables_are_refused(metrics: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidMessageError, match=message) as refused:
        read(build_reply(update(metrics=metrics), "float32"))
    assert len(str(refused.value)) < 300
    with pytest.raises(InvalidMessageError, match=message):
        read_evaluation_reply(build_evaluation_reply(4, metrics), 4)


def test_an_introduction_as_long_as_a_book_is_refused() -> None:
    content = RecordDict({"site": ConfigRecord({"introduction": " " * 1_000_001})})
    with pytest.raises(InvalidMessageError, match="1000001 characters"):
        read_introduction(content)


def test_more_bytes_than_were_asked_for_are_not_even_decoded() -> None:
    content = build_reply(update(), "float32")
    content["arrays"]["vision.a"] = Array("float32", (3, 2), "numpy.ndarray", b"\x93NUMPY" + b"x" * 10_000)
    with pytest.raises(InvalidMessageError, match=r"'vision\.a' has 10006 bytes where 24 were asked for"):
        read(content)


def test_a_forged_header_takes_no_memory() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    content = build_reply(update(), "float32")
    content["arrays"]["vision.a"] = Array("float32", (3, 2), "numpy.ndarray", data)
    with pytest.raises(InvalidMessageError, match=r"vision\.a"):
        read(content)


@pytest.mark.parametrize("record", ["arrays", "metrics", "weights"])
def test_a_missing_or_swapped_record_is_refused(record: str) -> None:
    content = build_reply(update(), "float32")
    del content[record]
    with pytest.raises(InvalidMessageError, match=record):
        read(content)
    content[record] = ConfigRecord({"x": 1})
    with pytest.raises(InvalidMessageError, match=record):
        read(content)


def test_bytes_that_are_no_array_are_refused() -> None:
    content = build_reply(update(), "float32")
    content["arrays"]["vision.a"] = Array("float32", (3, 2), "numpy.ndarray", b"\x80\x04not an array")
    with pytest.raises(InvalidMessageError, match=r"vision\.a"):
        read(content)
    content["arrays"]["vision.a"] = Array("float32", (3, 2), "pickle", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InvalidMessageError, match=r"vision\.a"):
        read(content)


def test_a_reply_in_another_format_is_refused() -> None:
    with pytest.raises(InvalidMessageError, match="float16 where codec float32"):
        read(build_reply(update(), "float16"))


@pytest.mark.parametrize("codec", ["float16", "bfloat16", "int8"])
def test_a_format_that_rounds_carries_the_change(codec: str) -> None:
    """A change far below the format's resolution of the parameters themselves survives."""
    base = {name: 1000 * tensor for name, tensor in BASE.items()}
    change = {name: 1e-3 * torch.randn(tensor.shape) for name, tensor in BASE.items()}
    content = build_reply(update(tensors=change), codec)
    found = read_reply(content, base=base, codec=codec, server_round=2, expert_count=3, label_count=5)
    for name, tensor in base.items():
        sent = codec_by_name(codec).decode(content["arrays"][name], tensor.shape)
        assert torch.equal(found.tensors[name], tensor + sent)
        torch.testing.assert_close(sent, change[name], rtol=0.01, atol=1e-5)


BAD_INT8 = {
    "int16 where": np.zeros((3, 6), dtype=np.int16),
    "in rows": np.zeros((2, 7), dtype=np.int8),
    "hold no scale": np.zeros((3,), dtype=np.int8),
    "NaN or infinity": np.full((3, 6), -1, dtype=np.int8),  # a scale of four bytes 255 is NaN
    "negative scale": np.array([[0, 0, -128, -65, 1, 1]] * 3, dtype=np.int8),
    "holds -128": np.array([[0, 0, -128, 63, -128, 1]] * 3, dtype=np.int8),
}


@pytest.mark.parametrize("message", BAD_INT8)
def test_bad_int8_rows_are_refused_by_name(message: str) -> None:
    content = build_reply(update(), "int8")
    content["arrays"]["vision.a"] = Array(BAD_INT8[message])
    with pytest.raises(InvalidMessageError, match=f"'vision.a' .*{message}"):
        read_reply(content, base=BASE, codec="int8", server_round=2, expert_count=3, label_count=5)


def test_evaluation_replies() -> None:
    content = build_evaluation_reply(4, {"test/auc": 0.7, "test/n": 12})
    assert read_evaluation_reply(content, 4) == {"test/auc": 0.7, "test/n": 12}
    with pytest.raises(InvalidMessageError, match="another round"):
        read_evaluation_reply(content, 5)
    with pytest.raises(InvalidMessageError, match="test/auc"):
        read_evaluation_reply(build_evaluation_reply(4, {"test/auc": math.nan}), 4)
    with pytest.raises(InvalidMessageError, match="metrics"):
        read_evaluation_reply(RecordDict({"other": MetricRecord()}), 4)


def test_introductions() -> None:
    introduction = SiteIntroduction(name="north", label_space=SPACE, version="0.1.0")
    assert read_introduction(build_introduction(introduction)) == introduction
    for broken in ("{}", "no json", '["list"]', '{"name": "", "label_space": 3, "version": ""}'):
        with pytest.raises(InvalidMessageError):
            read_introduction(RecordDict({"site": ConfigRecord({"introduction": broken})}))
