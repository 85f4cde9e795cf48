"""Replies on their way to disk: what was sent is what is read, in whatever steps it comes; nobody can break a run."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node, NodeInfo
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.supercore.task_identity import TaskIdentity

from server.spool import SpooledArray, SpoolingInbox, UploadRejectedError, _Download

MOST = 200 * 2**20
Contents = dict[str, bytes]


def reply() -> Message:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    generator = torch.Generator().manual_seed(0)
    large, zeros = torch.randn(3, 1_000_000, generator=generator), torch.zeros(2, 1_500_000)
    first = {"a": large, "b": zeros, "c": torch.tensor(1.0)}
    second = {"a": torch.randn(5, generator=generator), "same": large}
    content = RecordDict(
        {
            **{
                name: ArrayRecord({key: Array(tensor.numpy()) for key, tensor in record.items()})
                for name, record in {"first": first, "second": second}.items()
            },
            "metrics": MetricRecord({"round": 1}),
            "text": ConfigRecord({"key": "value"}),
        }
    )
    return Message(content, dst_node_id=1, message_type="train")


def objects(message: Message) -> tuple[str, Contents]:
    return message.object_id, {identity: item.deflate() for identity, item in get_all_nested_objects(message).items()}


def receive(
    path: Path, identity: str, contents: Contents, *, most: int = MOST, arrives: Callable[[str], bool] = lambda _: True
) -> Message:
    def pull(wanted: str) -> bytes:
        if not arrives(wanted):
            raise ObjectUnavailableError(wanted)
        return contents[wanted]

    download = _Download(identity, path, most)
    for _ in range(200):
        if download.advance(pull, time.monotonic() + 0.2):
            return download.message()
    raise AssertionError("it never ends")


@pytest.mark.parametrize("slow", [False, True])
def test_what_was_sent_is_what_is_read(tmp_path: Path, slow: bool) -> None:
    sent = reply()
    identity, contents = objects(sent)
    asked: set[str] = set()

    def arrives(wanted: str) -> bool:  # slow: only when asked for the second time
        known = wanted in asked
        asked.add(wanted)
        return known or not slow

    received = receive(tmp_path / "x.reply", identity, contents, arrives=arrives)
    assert received.content.keys() == sent.content.keys()
    assert received.content["metrics"] == sent.content["metrics"] and received.content["text"] == sent.content["text"]
    for name in ("first", "second"):
        arrays = received.content[name]
        assert isinstance(arrays, ArrayRecord) and list(arrays) == list(sent.content[name])
        for key, array in arrays.items():
            assert isinstance(array, SpooledArray), "its bytes would be in memory"
            assert array.data == sent.content[name][key].data  # type: ignore[index, union-attr]
    assert received.metadata.message_id == identity


def changed(contents: Contents, identity: str, kind: str, change: Callable[[bytes], bytes]) -> tuple[str, Contents]:
    """The same reply with one object of a kind forged, and every id above it made right again."""
    old = next(key for key, content in contents.items() if content.startswith(kind.encode() + b" "))
    renamed, contents = {old: change(contents[old])}, dict(contents)
    while renamed:
        old, content = renamed.popitem()
        del contents[old]
        new = get_object_id(content)
        contents[new] = content
        if old == identity:
            return new, contents
        parents = {key: c for key, c in contents.items() if old.encode() in c and not c.startswith(b"ArrayChunk")}
        for key, parent in parents.items():
            head, _, body = parent.partition(b"\x00")
            forged = head.replace(old.encode(), new.encode()) + b"\x00" + body.replace(old.encode(), new.encode())
            renamed[key] = forged
    raise AssertionError


def body(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:  # type: ignore[type-arg]
    def apply(content: bytes) -> bytes:
        head, _, raw = content.partition(b"\x00")
        new = json.dumps(change(json.loads(raw))).encode()
        kind, children, _ = head.split(b" ")
        return b" ".join([kind, children, str(len(new)).encode()]) + b"\x00" + new

    return apply


FORGERIES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "no head": ("Array", lambda content: b"nothing"),
    "unknown kind": ("MetricRecord", lambda content: content.replace(b"MetricRecord", b"WetricRecord", 1)),
    "not JSON": ("Array", lambda content: content[:-1]),
    "no shape": ("Array", body(lambda array: {k: v for k, v in array.items() if k != "shape"})),
    "a shape of text": ("Array", body(lambda array: {**array, "shape": 7})),
    "pieces that it has not": ("Array", body(lambda array: {**array, "arraychunk_ids": [99]})),
    "the same piece a million times": ("Array", body(lambda array: {**array, "arraychunk_ids": [0] * 1_000_000})),
    "the same piece fifty times": ("Array", body(lambda array: {**array, "arraychunk_ids": [0] * 50})),
    "an array that is not there": ("ArrayRecord", body(lambda names: dict.fromkeys(names, "0" * 64))),
    "a list of arrays": ("ArrayRecord", body(lambda names: list(names))),
    "records that are not there": ("RecordDict", body(lambda names: dict.fromkeys(names, "0" * 64))),
    "no message": ("Message", lambda content: content.replace(b"Message", b"RecordDict", 1)),
    "a broken message": ("Message", lambda content: content + b"\xff\xff"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_reply_is_the_fault_of_its_site(tmp_path: Path, forgery: str) -> None:
    kind, change = FORGERIES[forgery]
    identity, contents = changed(*reversed(objects(reply())), kind, change)  # type: ignore[misc]
    with pytest.raises(UploadRejectedError):
        receive(tmp_path / "x.reply", identity, contents)


def test_no_more_is_taken_than_an_honest_site_sends(tmp_path: Path) -> None:
    identity, contents = objects(reply())
    most = 20 * 2**20
    with pytest.raises(UploadRejectedError, match="more than"):
        receive(tmp_path / "x.reply", identity, contents, most=most)
    assert (tmp_path / "x.reply").stat().st_size <= most
    assert sum(map(len, contents.values())) > most


def test_what_stays_in_memory_is_bounded_whatever_the_size_of_the_model(tmp_path: Path) -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    text = {f"text{n}": ConfigRecord({"key": bytes(7 * 2**20) + bytes([n])}) for n in range(6)}
    identity, contents = objects(Message(RecordDict(text), dst_node_id=1, message_type="train"))
    with pytest.raises(UploadRejectedError, match="beside the arrays"):
        receive(tmp_path / "x.reply", identity, contents)


class Link:
    """What a SuperLink says of its nodes and objects."""

    def __init__(self, *nodes: NodeInfo) -> None:
        self.nodes, self.there, self.asked = nodes, {"request"}, 0
        self._runtime_client, self.node, self.run = self, Node(node_id=1), SimpleNamespace(run_id=7)

    def get_nodes(self) -> tuple[NodeInfo, ...]:
        return self.nodes

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        self.asked += 1
        there = request.object_id in self.there
        return PullObjectResponse(object_found=there, object_available=there, object_content=b"request")


def node(number: int, *, interval: float = 30.0, activated: str = "", online_for: float = 45.0) -> NodeInfo:
    return NodeInfo(
        node_id=number, heartbeat_interval=interval, last_activated_at=activated, online_until=time.time() + online_for
    )


def test_a_process_is_told_from_another_by_its_heartbeat_and_not_by_when_it_came_back(tmp_path: Path) -> None:
    def processes(*nodes: NodeInfo) -> dict[int, str]:
        return SpoolingInbox(Link(*nodes), tmp_path, MOST).connections()  # type: ignore[arg-type]

    before = processes(node(1, interval=30.25, activated="8:00"), node(2, activated="8:00"))
    after = processes(node(1, interval=30.25, activated="9:00"), node(2, activated="9:00"))
    assert before[1] == after[1], "its line was cut"
    assert before[2] != after[2], "Flower's own SuperNode: nobody can tell"
    assert processes(node(1, interval=30.5, activated="8:00")) != {1: before[1]}, "another process"


def test_a_node_that_is_about_to_be_counted_as_gone_is_gone(tmp_path: Path) -> None:
    """Asked for the reply a moment later, Flower would answer for it."""
    inbox = SpoolingInbox(Link(node(1, online_for=2.0), node(2), node(3, online_for=-500.0)), tmp_path, MOST)  # type: ignore[arg-type]
    assert set(inbox.connections()) == {2, 3}, "3: a SuperLink whose clock is another"


def test_a_request_is_delivered_when_the_superlink_has_it_no_more(tmp_path: Path) -> None:
    link = Link()
    inbox = SpoolingInbox(link, tmp_path, MOST)  # type: ignore[arg-type]
    assert not inbox.delivered("request")
    link.there.clear()
    assert inbox.delivered("request") and inbox.delivered("request")
    assert link.asked == 2, "once it is known nobody is asked"
