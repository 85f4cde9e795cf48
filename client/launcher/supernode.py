"""The site's own ``flower-supernode``: Flower's program, which gives up less and waits for ever for nothing.

Two things of Flower 1.41 are mended:

- A line that is cut ends a TLS connection in the middle. Flower takes each error whose text has "SSL" in it for a wrong
  certificate and drops the message; here it is tried again, as it is over a connection without TLS.
- A ClientApp that is killed while it hands over its reply leaves half of it, and Flower's SuperNode waits for the other
  half for ever, connected and deaf; here the reply is given up.
"""

import time
from collections.abc import Callable
from typing import Any

import httpx
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli import flower_supernode

_HANDOVER_SECONDS = 60.0  # without a single object, of 5 MiB at most, from a process on this machine


def main() -> None:
    """Run ``flower-supernode`` with this process's arguments."""
    _replace()
    flower_supernode()


def patient_retry_invoker() -> RetryInvoker:
    """Flower's own, but a TLS connection that was cut is a connection to try again."""
    invoker = make_simple_http_retry_invoker()
    flowers_choice = invoker.should_giveup

    def should_give_up(error: Exception) -> bool:
        return not is_cut_line(error) and (flowers_choice is None or flowers_choice(error))

    invoker.should_giveup = should_give_up
    return invoker


def is_cut_line(error: Exception) -> bool:
    """Whether an established connection or a handshake has ended too early, as when a line is cut."""
    return isinstance(error, httpx.TransportError) and "EOF" in str(error)


class HandedOver:
    """A SuperNode's store of objects, as the one who uploads a reply sees it.

    Args:
        store: Flower's object store.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._last_arrival = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, object_id: str) -> bytes | None:
        """An object's content; empty if the ClientApp has not handed it over yet.

        Raises:
            TimeoutError: the ClientApp has handed over nothing for so long that it must be dead.
        """
        content: bytes | None = self._store.get(object_id)
        if content != b"":
            self._last_arrival = time.monotonic()
        elif time.monotonic() - self._last_arrival > _HANDOVER_SECONDS:
            raise TimeoutError("the ClientApp died while it handed over its reply")
        return content


def _replace() -> None:
    loop = _module_of_the_loop()
    push_messages: Callable[..., None] = loop["_push_messages"]

    def push_what_is_handed_over(state: Any, object_store: Any, **how: Any) -> None:
        push_messages(state=state, object_store=HandedOver(object_store), **how)

    loop["_push_messages"] = push_what_is_handed_over
    vars(fleet_http_connection)["make_simple_http_retry_invoker"] = patient_retry_invoker


def _module_of_the_loop() -> dict[str, Any]:
    # Flower's module and its only function bear one name.
    from flwr.supernode.start_client_internal import start_client_internal

    return start_client_internal.__globals__


if __name__ == "__main__":
    main()
