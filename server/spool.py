"""Replies from the network go to disk, a few tensors at a time.

Flower's own ``pull_messages`` gathers a whole reply in memory, twice, and only returns when its upload is complete or
has failed; a slow hospital would hold up everyone else. Here a download goes on in small steps and is resumed at the
next poll, and its arrays stay on disk until the merge asks for them. This uses internals of Flower 1.41 (pinned).
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flwr.app import Array, Message
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.superlink.grid.http_grid import HttpGrid

_CHUNK_BYTES = 5 * 2**20  # of Flower's
_SMALL_OBJECTS = 64
_CHUNKS_AT_ONCE = 8  # bounds the memory of a step unless one tensor alone is larger


_STALLED_SECONDS = 240.0  # Flower ends an upload session after 180 s without progress


class UploadStalledError(Exception):
    """A reply began to arrive and never went on."""


class UploadTooLargeError(Exception):
    """A reply has more bytes than any honest one; nothing more of it is taken."""


class SpooledArray(Array):
    """A Flower array whose bytes stay in a file until they are asked for."""

    def __init__(self, array: Array, path: Path, offset: int) -> None:
        self.dtype, self.shape, self.stype = array.dtype, array.shape, array.stype
        self.__dict__["_place"] = (path, offset, len(array.data))

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
                tree=found.message_object_trees[0],
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

    def connections(self) -> dict[int, str]:
        """See :class:`server.inbox.Inbox`."""
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}

    def forget(self, request: str) -> None:
        """See :class:`server.inbox.Inbox`."""
        download = self._downloads.pop(request, None)
        if download is not None:
            with contextlib.suppress(FileNotFoundError):
                download.path.unlink()

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
        tree: ids of all its objects.
        path: file of its arrays' bytes.
        most_bytes: of all its objects together.
    """

    identity: str
    tree: ObjectTree
    path: Path
    most_bytes: int

    def __post_init__(self) -> None:
        self._received = 0
        self._contents: dict[str, bytes] = {}
        self._arrays: dict[str, Any] = {}
        self._steps = self._remaining_steps()
        self._step: list[ObjectTree] | None = next(self._steps)
        self._pulled: dict[str, bytes] = {}  # of the step
        self._last_progress = time.monotonic()

    def advance(self, pull_object: Callable[[str], bytes], deadline: float) -> bool:
        """Go on until ``deadline``; whether the reply is complete.

        Raises:
            UploadStalledError: Flower has given the upload up, or nothing has arrived for so long that it must have.
            UploadTooLargeError: it has more than ``most_bytes``.
        """
        while self._step is not None:
            if time.monotonic() > deadline:
                return False
            if not self._pull_step(pull_object, deadline):
                if self.idle() > _STALLED_SECONDS:
                    raise UploadStalledError
                return False
            self._received += sum(map(len, self._pulled.values()))
            if self._received > self.most_bytes:
                raise UploadTooLargeError(f"more than {self.most_bytes} bytes")
            self._keep(self._step, self._pulled)
            self._pulled = {}
            self._step = next(self._steps, None)
        return True

    def idle(self) -> float:
        """Seconds since the last object arrived."""
        return time.monotonic() - self._last_progress

    def _pull_step(self, pull_object: Callable[[str], bytes], deadline: float) -> bool:
        assert self._step is not None
        wanted = {tree.object_id for part in self._step for tree in iterate_object_tree(part)}
        if len(wanted) > self.most_bytes // _CHUNK_BYTES + _SMALL_OBJECTS:
            raise UploadTooLargeError(f"one array in {len(wanted)} pieces")

        def pull_and_keep(identity: str) -> bytes:
            try:
                self._pulled[identity] = pull_object(identity)
            except ObjectPullError as error:  # Flower has given the upload up and forgotten it
                raise UploadStalledError from error
            self._last_progress = time.monotonic()
            return b""

        with contextlib.suppress(ObjectPullError):  # not uploaded yet: the next poll asks for what is missing
            missing = sorted(wanted - self._pulled.keys())
            pull_objects(missing, pull_and_keep, max_time=max(0.1, deadline - time.monotonic()))
        return wanted <= self._pulled.keys()

    def message(self) -> Message:
        """The complete reply."""
        found = inflate_object_from_contents(self.identity, self._contents, objects=self._arrays)
        found.metadata.__dict__["_message_id"] = self.identity  # type: ignore[attr-defined]
        return cast(Message, found)

    def _remaining_steps(self) -> Iterator[list[ObjectTree]]:
        """Objects to pull at once: first the envelope, one object at a time, then its arrays in small groups."""
        waiting = [self.tree]
        while waiting:
            tree = waiting.pop()
            yield [ObjectTree(object_id=tree.object_id)]
            kind, _, _ = get_object_head_values_from_object_content(self._contents[tree.object_id])
            if kind == "ArrayRecord":
                yield from _groups(list(tree.children))
            else:
                waiting.extend(tree.children)

    def _keep(self, step: list[ObjectTree], contents: dict[str, bytes]) -> None:
        for tree in step:
            kind, _, _ = get_object_head_values_from_object_content(contents[tree.object_id])
            if kind != "Array":
                self._contents[tree.object_id] = contents[tree.object_id]
                continue
            # Chunks may be shared by arrays of a step, hence the copy of the (small) dictionary.
            array = cast(Array, inflate_object_from_contents(tree.object_id, dict(contents)))
            with open(self.path, "ab") as file:
                offset = file.tell()
                file.write(array.data)
            self._arrays[tree.object_id] = SpooledArray(array, self.path, offset)


def _groups(arrays: list[ObjectTree]) -> Iterator[list[ObjectTree]]:
    group: list[ObjectTree] = []
    chunks = 0
    for tree in arrays:
        if group and chunks + len(tree.children) > _CHUNKS_AT_ONCE:
            yield group
            group, chunks = [], 0
        group.append(tree)
        chunks += len(tree.children)
    if group:
        yield group
