"""Replies from the network go to disk, a few megabytes at a time.

Flower's own ``pull_messages`` gathers a whole reply in memory, twice, and only returns when its upload is complete or
has failed; a slow hospital would hold up everyone else. Here a download goes on in small steps and is resumed at the
next poll, and its arrays stay on disk until the merge asks for them. This uses internals of Flower 1.41 (pinned).
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.superlink.grid.http_grid import HttpGrid

from server.heap import give_back_freed_memory

_PIECE_BYTES = 5 * 2**20  # Flower cuts arrays into pieces of this size
_SMALL_PIECES = 64  # that an array may have beyond those of full size
_PIECES_AT_ONCE = 4  # bounds the memory of a step
_ARRAYS_AT_ONCE = 64  # without their pieces
ENVELOPE_BYTES = 32 * 2**20
"""A reply may have so much beside its arrays: names, metrics, weights. It stays in memory."""

_ABOUT_TO_LEAVE_SECONDS = 5.0
_STALLED_SECONDS = 240.0  # Flower ends an upload session after 180 s without progress


class UploadStalledError(Exception):
    """A reply began to arrive and never went on."""


class UploadRejectedError(Exception):
    """A reply is no honest one: nothing more of it is taken. The text holds nothing that was received."""


class SpooledArray(Array):
    """A Flower array whose bytes stay in a file until they are asked for."""

    def __init__(self, dtype: str, shape: Sequence[int], stype: str, place: tuple[Path, int, int]) -> None:
        self.dtype, self.shape, self.stype = dtype, tuple(shape), stype
        self.__dict__["_place"] = place

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The array's bytes, read anew each time."""
        path, offset, size = self.__dict__["_place"]
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)


class SpoolingInbox:
    """Replies of a networked federation.

    Args:
        grid: the grid.
        folder: where arriving replies are kept; what an earlier process left there is deleted.
        most_bytes: a reply with more is given up: it would fill memory or disk.
    """

    def __init__(self, grid: HttpGrid, folder: Path, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._grid: Any = grid  # its internals are not typed for us
        self._folder = folder
        self._downloads: dict[str, _Download] = {}
        self._delivered: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.reply"):
            left.unlink()

    def poll(self, request: str, seconds: float) -> Message | None:
        """See :class:`server.inbox.Inbox`."""
        if request not in self._downloads:
            found = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=[request]))
            if not found.messages_list:
                return None
            self._downloads[request] = _Download(
                identity=found.messages_list[0].metadata.message_id,
                path=self._folder / f"{len(self._downloads)}-{request[:16]}.reply",
                most_bytes=self._most_bytes,
            )
        download = self._downloads[request]
        if not download.advance(self._pull_object(), time.monotonic() + seconds):
            return None
        self._grid._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._grid.node, run_id=self._grid.run.run_id, message_object_id=download.identity
            )
        )
        return download.message()

    def idle(self, request: str) -> float | None:
        """See :class:`server.inbox.Inbox`."""
        return self._downloads[request].idle() if request in self._downloads else None

    def delivered(self, request: str) -> bool:
        """See :class:`server.inbox.Inbox`. The SuperLink deletes a request when its site confirms that it has all."""
        if request not in self._delivered:
            with contextlib.suppress(ObjectPullError):
                self._pull_object()(request)
                return False
            self._delivered.add(request)
        return True

    def connections(self) -> dict[int, str]:
        """See :class:`server.inbox.Inbox`."""
        moment = time.time()
        return {
            node.node_id: _process_of(node)
            for node in self._grid.get_nodes()
            # Those about to be counted as out of reach are not asked: Flower would answer for them, and for good.
            if not 0.0 < node.online_until - moment < _ABOUT_TO_LEAVE_SECONDS
        }

    def forget(self, request: str) -> None:
        """See :class:`server.inbox.Inbox`."""
        self._delivered.discard(request)
        download = self._downloads.pop(request, None)
        if download is not None:
            with contextlib.suppress(FileNotFoundError):
                download.path.unlink()
            give_back_freed_memory()

    def _pull_object(self) -> Callable[[str], bytes]:
        return make_pull_object_fn_protobuf(
            pull_object_protobuf=self._grid._runtime_client.PullObject,
            node=self._grid.node,
            run_id=self._grid.run.run_id,
        )


@dataclass
class _Download:
    """One reply on its way to disk.

    Attributes:
        identity: id of the reply.
        path: file of its arrays' bytes.
        most_bytes: of all its objects together, and of the file.
    """

    identity: str
    path: Path
    most_bytes: int

    def __post_init__(self) -> None:
        self._received = self._envelope = 0
        self._contents: dict[str, bytes] = {}  # all but the arrays
        self._inflated: dict[str, Any] = {}
        self._places: dict[str, tuple[int, int]] = {}  # offset and size in the file of each piece of an array
        self._end = 0
        self._pulled: dict[str, bytes] = {}  # of the step
        self._last_progress = time.monotonic()
        self._steps = self._all_steps()
        self._step: list[str] | None = next(self._steps)

    def advance(self, pull_object: Callable[[str], bytes], deadline: float) -> bool:
        """Go on until ``deadline``; whether the reply is complete.

        Raises:
            UploadStalledError: Flower has given the upload up, or nothing has arrived for so long that it must have.
            UploadRejectedError: it has more than ``most_bytes``, or is not what a site sends.
        """
        while self._step is not None:
            if time.monotonic() > deadline:
                return False
            if not self._pull_step(self._step, pull_object):
                if self.idle() > _STALLED_SECONDS:
                    raise UploadStalledError
                return False
            step_bytes = sum(map(len, self._pulled.values()))
            self._received += step_bytes
            self._allow(self._received)
            with _reading_what_was_sent():
                self._step = next(self._steps, None)
            self._pulled = {}
            if step_bytes > _PIECE_BYTES:
                give_back_freed_memory()
        return True

    def idle(self) -> float:
        """Seconds since the last object arrived."""
        return time.monotonic() - self._last_progress

    def message(self) -> Message:
        """The complete reply.

        Raises:
            UploadRejectedError: it is not what a site sends.
        """
        with _reading_what_was_sent():
            found = inflate_object_from_contents(self.identity, self._contents, objects=self._inflated)
            if not isinstance(found, Message):
                raise TypeError
            found.metadata.__dict__["_message_id"] = self.identity
            return found

    def _pull_step(self, wanted: Sequence[str], pull_object: Callable[[str], bytes]) -> bool:
        def pull_and_keep(identity: str) -> bytes:
            try:
                self._pulled[identity] = pull_object(identity)
            except ObjectPullError as error:  # Flower has given the upload up and forgotten it
                raise UploadStalledError from error
            self._last_progress = time.monotonic()
            return b""

        with contextlib.suppress(ObjectPullError):  # not uploaded yet: the next poll asks for what is missing
            missing = sorted(set(wanted) - self._pulled.keys())
            # No waiting in there: Flower's goes up to ten seconds, in which nobody would hear of any site.
            pull_objects(missing, pull_and_keep, max_tries_per_object=1)
        return self._pulled.keys() >= set(wanted)

    def _all_steps(self) -> Iterator[list[str]]:
        """The ids to pull next; when the step after is asked for, they are in ``_pulled``."""
        waiting = [self.identity]
        while waiting:
            identity = waiting.pop()
            yield [identity]
            content = self._pulled[identity]
            kind, children, _ = get_object_head_values_from_object_content(content)
            if kind == "ArrayRecord":
                yield from self._array_steps(children)
                self._inflated[identity] = self._record(content)
            else:
                self._envelope += len(content)
                if self._envelope > ENVELOPE_BYTES:
                    raise UploadRejectedError(f"more than {ENVELOPE_BYTES} bytes beside the arrays")
                self._contents[identity] = content
                waiting.extend(children)

    def _array_steps(self, identities: Sequence[str]) -> Iterator[list[str]]:
        described: dict[str, tuple[dict[str, Any], list[str]]] = {}
        for group in _groups(identities, _ARRAYS_AT_ONCE):
            yield list(group)
            described |= {identity: self._described(self._pulled[identity]) for identity in group}
        pieces = [piece for _, listed in described.values() for piece in listed]
        offset = self._end
        for pieces_at_once in _groups(pieces, _PIECES_AT_ONCE):
            yield sorted(set(pieces_at_once) - self._places.keys())
            self._append(pieces_at_once)
        for identity, (description, listed) in described.items():
            size = sum(self._places[piece][1] for piece in listed)
            self._inflated[identity] = SpooledArray(
                description["dtype"], description["shape"], description["stype"], (self.path, offset, size)
            )
            offset += size

    def _described(self, content: bytes) -> tuple[dict[str, Any], list[str]]:
        """What Flower says about an array, and the ids of its pieces in their order."""
        _, children, _ = get_object_head_values_from_object_content(content)
        description = json.loads(get_object_body(content, Array))
        pieces = [children[number] for number in description["arraychunk_ids"]]
        if len(pieces) > self.most_bytes // _PIECE_BYTES + _SMALL_PIECES:
            raise UploadRejectedError(f"one array in {len(pieces)} pieces")
        return description, pieces

    def _append(self, pieces: Sequence[str]) -> None:
        """Write pieces to the file; what is in it already is copied: equal pieces are sent once."""
        with open(self.path, "ab+") as file:
            for piece in pieces:
                if piece in self._pulled:
                    body: bytes = get_object_body(self._pulled[piece], ArrayChunk)
                else:
                    offset, size = self._places[piece]
                    file.seek(offset)
                    body = file.read(size)
                self._places.setdefault(piece, (self._end, len(body)))
                self._end += len(body)
                self._allow(self._end)
                file.write(body)

    def _record(self, content: bytes) -> ArrayRecord:
        """An ArrayRecord of the arrays on disk: Flower's own way to make one reads all of them into memory."""
        names: dict[str, str] = json.loads(get_object_body(content, ArrayRecord))
        record = ArrayRecord()
        for name, identity in names.items():
            record[name] = self._inflated[identity]
        return record

    def _allow(self, size: int) -> None:
        if size > self.most_bytes:
            raise UploadRejectedError(f"more than {self.most_bytes} bytes")


def _process_of(node: NodeInfo) -> str:
    """What changes when another process connects as this node.

    A site's own SuperNode has a heartbeat interval for each of its processes (``client/launcher/supernode.py``); for
    Flower's, to come back after a minute out of reach looks the same as to be started anew.
    """
    interval = float(node.heartbeat_interval)
    return node.last_activated_at if interval == HEARTBEAT_DEFAULT_INTERVAL else repr(interval)


@contextlib.contextmanager
def _reading_what_was_sent() -> Iterator[None]:
    """A site may send anything: whatever error its bytes cause here is its own, that of a full disk is not."""
    try:
        yield
    except (OSError, UploadRejectedError):
        raise
    except Exception as error:
        raise UploadRejectedError(f"no well-formed message ({type(error).__name__})") from error


def _groups(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
