"""The message contract: what goes in comes out, and everything malformed is refused by name."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from medvlmoe.data import LabelSpace
from medvlmoe.errors import ConfigError
from medvlmoe.model import MedVLMoEConfig
from medvlmoe.training.config import TrainingConfig
from strategies.config import CODECS
from strategies.messages import (
    InvalidMessageError,
    RoundConfig,
    SiteIntroduction,
    SiteUpdate,
    build_evaluation_reply,
    build_introduction,
    build_reply,
    build_request,
    read_evaluation_reply,
    read_introduction,
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
    config, tensors, used = read_request(build_request(round_config(), BASE, codec))
    assert config == round_config()
    assert used == codec
    for name, tensor in BASE.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0.01, atol=0.01)


def test_a_reply_comes_back() -> None:
    found = read(build_reply(update(), "float32"))
    assert found.examples == 10.0 and found.metrics == {"train_loss": 0.5}
    assert torch.equal(found.routed_samples_K, update().routed_samples_K.double())
    assert all(torch.equal(found.tensors[name], update().tensors[name]) for name in BASE)


def test_a_request_with_an_unknown_key_is_refused() -> None:
    content = build_request(round_config(), BASE, "float32")
    decided = json.loads(str(content["config"]["round"]))
    decided["training"]["upload_images_to"] = "somewhere"
    content["config"]["round"] = json.dumps(decided)
    with pytest.raises(ConfigError, match="upload_images_to"):
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
