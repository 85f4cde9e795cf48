"""Flower's own loop of a SuperNode, its stores and the SuperLink's handlers; only the line between them is ours."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.constants import DEFAULT_TTL
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.corestate import in_memory_corestate, sql_corestate
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError, ObjectUnavailableError
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.servicer.fleet.fleet_handlers import pull_object, push_messages, push_object
from flwr.supernode.nodestate import NodeStateFactory

from client.launcher import supernode, upload
from client.launcher.upload import HandedOver

ARRAYS = 12
_NO_USE = ("state", "object_store", "node_config", "get_run", "get_fab", "confirm_message_received", "trusted_entities")


@pytest.fixture(params=["in memory", "database"])
def link(request: pytest.FixtureRequest, tmp_path: Path) -> LinkState:
    place = FLWR_IN_MEMORY_DB_NAME if request.param == "in memory" else str(tmp_path / "link.db")
    return LinkStateFactory(place, NoOpFederationManager(), ObjectStoreFactory(place)).state()


class Federation:
    """A hospital with a reply that is ready, a SuperLink that has asked for it, and a line that loses answers."""

    def __init__(self, link: LinkState) -> None:
        self.link = link
        self.node = link.create_node(NOOP_FLWR_AID, "name", b"key", 30.0)
        assert link.activate_node(self.node, 30.0)
        self.run = link.create_run(None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP)
        task = link.get_run_info(run_ids=[self.run])[0].primary_task_id
        assert task is not None and link.claim_task(task) and link.activate_task(task)
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task, self.run, SUPERLINK_NODE_ID
        request = Message(RecordDict(), dst_node_id=self.node, message_type="train", ttl=DEFAULT_TTL)
        request.metadata.__dict__["_message_id"] = request.object_id
        assert link.store_message_ins(request)
        reply = Message(
            RecordDict({"a": ArrayRecord({str(k): Array(np.full(9, k)) for k in range(ARRAYS)})}), reply_to=request
        )
        reply.metadata.__dict__["_message_id"] = self.reply = reply.object_id
        self.objects = {identity: each.deflate() for identity, each in get_all_nested_objects(reply).items()}
        store_factory = ObjectStoreFactory(FLWR_IN_MEMORY_DB_NAME)
        self.state, self.store = NodeStateFactory(store_factory).state(), store_factory.store()
        self.state.store_message(reply)
        self.store.preregister(self.run, get_object_tree(reply))
        self.state.record_message_processing_start(request.metadata.message_id)
        self.state.record_message_processing_end(request.metadata.message_id)
        self.is_lost: Callable[[], bool] = lambda: False  # the answer to a call
        self._line = threading.Lock()

    def hand_over(self) -> None:
        for identity, content in self.objects.items():
            self.store.put(identity, content)

    def upload(self) -> None:
        self.hand_over()
        loop = supernode._module_of_the_loop()
        nothing_to_receive = {**dict.fromkeys(_NO_USE), "receive": lambda: None}
        loop["_pull_and_store_message"](**nothing_to_receive, pull_object=self._pull_object)
        loop["_push_messages"](
            state=self.state, object_store=self.store, send=self._send, push_object=self._push_object
        )

    def _send(self, message: Message, tree: Any, runtime: float) -> tuple[set[str], str]:
        asked = PushMessagesRequest(
            node=Node(node_id=self.node),
            messages_list=[message_to_proto(Message(RecordDict(), metadata=message.metadata))],
            message_object_trees=[tree],
            clientapp_runtime_list=[runtime],
        )
        answer = self._answered(lambda: push_messages(asked, self.link))
        return set(answer.objects_to_push), answer.session_id

    def _push_object(self, run: int, session: str, identity: str, content: bytes) -> None:
        asked = PushObjectRequest(
            node=Node(node_id=self.node), run_id=run, session_id=session, object_id=identity, object_content=content
        )
        if not self._answered(lambda: push_object(asked, self.link)).stored:
            raise ObjectPushError(identity, run, session)

    def _pull_object(self, run: int, identity: str) -> bytes:
        asked = PullObjectRequest(node=Node(node_id=self.node), run_id=run, object_id=identity)
        answer = self._answered(lambda: pull_object(asked, self.link))
        if not answer.object_found:
            raise ObjectPullError(identity, "")
        if not answer.object_available:
            raise ObjectUnavailableError(identity)
        return bytes(answer.object_content)

    def _answered(self, call: Callable[[], Any]) -> Any:
        """As Flower's retries have it: until an answer comes through."""
        while True:
            with self._line:
                answer = call()
                if not self.is_lost():
                    return answer

    def arrived(self) -> bool:
        """Whether the SuperLink would hand out the reply, and all of it."""
        whole = all(self.link.get_object(self.run, identity) == content for identity, content in self.objects.items())
        return self.link.num_message_res() == 1 and whole


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = supernode._module_of_the_loop()
    for name in ("_push_messages", "_pull_and_store_message"):
        monkeypatch.setitem(loop, name, loop[name])
    for name in ("make_simple_http_retry_invoker", "HEARTBEAT_DEFAULT_INTERVAL"):
        monkeypatch.setattr(supernode.fleet_http_connection, name, getattr(supernode.fleet_http_connection, name))
    supernode._replace()


def lose_answers(federation: Federation, seed: int, share: float) -> None:
    generator = random.Random(seed)
    federation.is_lost = lambda: generator.random() < share


def test_without_the_mend_one_lost_answer_costs_the_reply(link: LinkState) -> None:
    """What is mended is there: should a version of Flower take an object twice, the mend can go."""
    federation = Federation(link)
    lose_answers(federation, seed=0, share=0.3)
    federation.upload()
    assert not federation.arrived()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_answers_are_lost_the_reply_arrives_whole(
    mended: None, link: LinkState, seed: int, share: float
) -> None:
    federation = Federation(link)
    lose_answers(federation, seed, share)
    federation.upload()
    assert federation.arrived()


def test_what_the_superlink_does_not_have_is_not_taken_for_sent(
    mended: None, link: LinkState, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has waited too long and deleted everything."""
    federation = Federation(link)
    for module in (in_memory_corestate, sql_corestate):
        monkeypatch.setattr(module, "OBJECT_PUSH_SESSION_TTL_SECONDS", -1)
    federation.upload()
    assert "Failed to send" in caplog.text and "Sent successfully" not in caplog.text
    assert not federation.arrived()


def test_half_a_reply_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HandedOver(SimpleNamespace(get={"there": b"content", "gone": None}.get))
    slow = HandedOver(SimpleNamespace(get=lambda _: b"", delete=lambda _: "deleted"))
    monkeypatch.setattr(upload, "_HANDOVER_SECONDS", 0.2)
    time.sleep(0.3)  # the ClientApp trains, and has nothing to hand over
    assert slow.get("coming") == b""
    assert slow.delete("coming") == "deleted"
    time.sleep(0.3)
    with pytest.raises(TimeoutError):
        slow.get("coming")
    assert store.get("there") == b"content" and store.get("gone") is None
