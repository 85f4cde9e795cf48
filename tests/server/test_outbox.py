"""Requests that are made as they are sent are, to Flower, the very requests that it would have made itself."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from medvlmoe.files import TensorFile, save_tensors
from server.deferred_array import DeferredArray
from server.outbox import StreamingOutbox
from strategies.codecs import as_array, codec_by_name
from strategies.messages import encode_arrays

SHAPES = {"small": (3, 2), "scalar": (), "large": (3, 1_000_000), "zeros": (2, 1_500_000), "empty": (0, 4)}


class SuperLink:
    """What a SuperLink does with requests: it asks for the objects that it does not have, and keeps them."""

    def __init__(self) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.contents: dict[str, bytes] = {}
        self.pushes: Counter[str] = Counter()
        self.node, self.run, self._runtime_client = Node(node_id=1), SimpleNamespace(run_id=1), self

    def _check_message(self, message: Message) -> None:
        assert message.metadata.message_id

    def PushMessages(self, request: Any) -> Any:
        wanted = {identity for tree in request.message_object_trees for identity in _identities(tree)}
        self.message_ids = [tree.object_id for tree in request.message_object_trees]
        return SimpleNamespace(
            objects_to_push=wanted - self.contents.keys(), session_id="session", message_ids=self.message_ids
        )

    def PushObject(self, request: Any) -> Any:
        self.contents[request.object_id] = request.object_content
        self.pushes[request.object_id] += 1
        return SimpleNamespace(stored=True)


def _identities(tree: Any) -> list[str]:
    return [tree.object_id, *(identity for child in tree.children for identity in _identities(child))]


@pytest.fixture
def tensors(tmp_path: Path) -> TensorFile:
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    values["zeros"].zero_()  # Flower's pieces of it are all the same one
    save_tensors(tmp_path / "model.safetensors", values)
    return TensorFile(tmp_path / "model.safetensors")


@pytest.mark.parametrize("codec", ["float32", "bfloat16"])
def test_everybody_gets_what_flower_itself_would_have_sent(tensors: TensorFile, codec: str) -> None:
    link = SuperLink()
    outbox = StreamingOutbox(link)  # type: ignore[arg-type]
    config = ConfigRecord({"round": 3})
    made = {
        encode: RecordDict({"arrays": encode(tensors, codec), "config": config})
        for encode in (outbox.encode, encode_arrays)
    }
    arrays = made[outbox.encode]["arrays"].values()  # type: ignore[union-attr]
    assert all(isinstance(array, DeferredArray) for array in arrays), "their bytes would be in memory"
    requests = [Message(made[outbox.encode], dst_node_id=node, message_type="train") for node in (2, 3)]
    sent = outbox.push(requests)
    assert sent == link.message_ids and set(link.pushes.values()) == {1}
    expected = get_all_nested_objects(made[encode_arrays])
    messages = {message.object_id: message.deflate() for message in requests}
    assert link.contents == {identity: item.deflate() for identity, item in expected.items()} | messages
    assert get_object_tree(made[outbox.encode]) == get_object_tree(made[encode_arrays])
    for identity in sent:
        received = inflate_object_from_contents(identity, dict(link.contents))
        assert isinstance(received, Message)
        decode = codec_by_name(codec).decode
        for name, array in received.content["arrays"].items():  # type: ignore[union-attr]
            assert torch.equal(decode(array), decode(codec_by_name(codec).encode(tensors[name])))


def test_what_the_superlink_has_is_not_sent_again(tensors: TensorFile) -> None:
    link = SuperLink()
    outbox = StreamingOutbox(link)  # type: ignore[arg-type]
    content = RecordDict({"arrays": outbox.encode(tensors, "float32")})
    outbox.push([Message(content, dst_node_id=2, message_type="train")])
    link.pushes.clear()
    second = Message(content, dst_node_id=3, message_type="train")
    outbox.push([second])
    assert link.pushes == {second.object_id: 1}


@pytest.mark.parametrize("values", [np.float32(3.5), np.zeros((0, 2)), np.arange(6).reshape(2, 3).T, np.ones((1, 3))])
def test_arrays_have_the_bytes_that_flower_gives_them(values: np.ndarray) -> None:
    from flwr.app import Array

    ours, flowers = as_array(np.asarray(values)), Array(np.ascontiguousarray(values).reshape(np.shape(values)))
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == (
        flowers.dtype, flowers.shape, flowers.stype, flowers.data
    )  # fmt: skip
