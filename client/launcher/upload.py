"""A reply on its way from the ClientApp over the SuperNode to the SuperLink."""

import time
from collections.abc import Callable
from typing import Any

from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError, ObjectUnavailableError

_HANDOVER_SECONDS = 60.0  # without a single object, of 5 MiB at most, from a process on this machine

PushObject = Callable[[int, str, str, bytes], None]
PullObject = Callable[[int, str], bytes]


class HandedOver:
    """A SuperNode's store of objects, as the one who uploads a reply sees it.

    Args:
        store: Flower's object store.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._last_arrival: float | None = None  # before the first question the ClientApp trains, for hours perhaps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, object_id: str) -> bytes | None:
        """An object's content; empty if the ClientApp has not handed it over yet.

        Raises:
            TimeoutError: the ClientApp has handed over nothing for so long that it must be dead.
        """
        content: bytes | None = self._store.get(object_id)
        if content != b"" or self._last_arrival is None:
            self._last_arrival = time.monotonic()
        elif time.monotonic() - self._last_arrival > _HANDOVER_SECONDS:
            raise TimeoutError("the ClientApp died while it handed over its reply")
        return content


def pushed_or_there(push_object: PushObject, pull_object: PullObject) -> PushObject:
    """A push that succeeds if the SuperLink has the object already.

    The SuperLink takes each object once. If the line is cut after it took one and before it said so, it refuses the
    same object when it comes again, and Flower's SuperNode drops the whole reply. Here it is asked what it has.

    Args:
        push_object: pushes one object: run, session, id, content.
        pull_object: what the SuperLink has under an id: run, id.
    """

    def push(run: int, session: str, object_id: str, content: bytes) -> None:
        try:
            push_object(run, session, object_id, content)
        except ObjectPushError as error:
            try:
                there = pull_object(run, object_id)
            except (ObjectPullError, ObjectUnavailableError):
                raise error from None
            if there != content:
                raise

    return push
