"""How requests leave the server."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from flwr.app import Array, ArrayRecord, Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_push_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import push_objects
from flwr.superlink.grid.http_grid import HttpGrid

from server.deferred_array import DeferredArray, NamedPiece
from server.heap import give_back_freed_memory
from server.inbox import is_networked
from strategies.codecs import codec_by_name
from strategies.messages import encode_arrays

_PIECES_AT_ONCE = 2  # of 5 MiB


class Outbox(Protocol):
    """Sends requests."""

    def encode(self, tensors: Mapping[str, torch.Tensor], codec: str) -> ArrayRecord:
        """Parameters as Flower arrays in the codec's number format, for requests that go out here."""

    def push(self, messages: Sequence[Message]) -> list[str]:
        """Send one message to each of several nodes; their ids, empty for a node that cannot be reached."""


class GridOutbox:
    """Requests to any Grid, each whole in memory: for simulations, whose sites take them from there."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def encode(self, tensors: Mapping[str, torch.Tensor], codec: str) -> ArrayRecord:
        """See :class:`Outbox`."""
        return encode_arrays(tensors, codec)

    def push(self, messages: Sequence[Message]) -> list[str]:
        """See :class:`Outbox`."""
        return list(self._grid.push_messages(messages))


class StreamingOutbox:
    """Requests to a networked federation, a few megabytes of parameters in memory at a time.

    Flower's own ``push_messages`` holds what it sends in memory, twice. This uses internals of Flower 1.41 (pinned).
    """

    def __init__(self, grid: HttpGrid) -> None:
        self._grid: Any = grid  # its internals are not typed for us

    def encode(self, tensors: Mapping[str, torch.Tensor], codec: str) -> ArrayRecord:
        """See :class:`Outbox`. ``tensors`` must stay the same until the request has been sent."""
        arrays = ArrayRecord()  # filled below: its constructor would copy the bytes of each
        for name in tensors:
            arrays[name] = DeferredArray(partial(_encoded, tensors, name, codec))
        give_back_freed_memory()
        return arrays

    def push(self, messages: Sequence[Message]) -> list[str]:
        """See :class:`Outbox`."""
        with no_object_id_recompute():
            for message in messages:
                message.metadata.__dict__["_message_id"] = message.object_id
                self._grid._check_message(message)
            answer = self._grid._runtime_client.PushMessages(
                PushAppMessagesRequest(
                    messages_list=[message_to_proto(remove_content_from_message(message)) for message in messages],
                    message_object_trees=[get_object_tree(message) for message in messages],
                )
            )
            push_object = make_push_object_fn_protobuf(
                push_object_protobuf=self._grid._runtime_client.PushObject,
                node=self._grid.node,
                run_id=self._grid.run.run_id,
                session_id=answer.session_id,
            )
            wanted = set(answer.objects_to_push)  # what all nodes get is asked for once
            for objects in _in_small_groups(messages, wanted):
                push_objects(objects, push_object)
                give_back_freed_memory()
        return list(answer.message_ids)


def outbox_of(grid: Grid) -> Outbox:
    """The outbox for a grid."""
    return StreamingOutbox(grid) if is_networked(grid) else GridOutbox(grid)


def _encoded(tensors: Mapping[str, torch.Tensor], name: str, codec: str) -> Array:
    return codec_by_name(codec).encode(tensors[name])


def _in_small_groups(messages: Sequence[Message], wanted: set[str]) -> Iterator[dict[str, InflatableObject]]:
    """What is still wanted of the messages: their arrays' pieces a few at a time, then all that holds no numbers."""
    small: dict[str, InflatableObject] = {}
    for message in messages:
        for identity, item in get_all_nested_objects(message).items():
            if isinstance(item, DeferredArray) and not wanted.isdisjoint(item.children):
                yield from _pieces(item, wanted)
            if identity in wanted and not isinstance(item, NamedPiece):
                wanted.remove(identity)
                small[identity] = item
    yield small


def _pieces(array: DeferredArray, wanted: set[str]) -> Iterator[dict[str, InflatableObject]]:
    made = array.slice_array()
    for first in range(0, len(made), _PIECES_AT_ONCE):
        group = {identity: piece for identity, piece in made[first : first + _PIECES_AT_ONCE] if identity in wanted}
        wanted.difference_update(group)
        if group:
            yield group
