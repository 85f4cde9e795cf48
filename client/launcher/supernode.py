"""The site's own ``flower-supernode``: Flower's program, which gives up less and waits for ever for nothing.

Four things of Flower 1.41 are mended:

- A line that is cut ends a TLS connection in the middle. Flower takes each error whose text has "SSL" in it for a wrong
  certificate and drops the message; here it is tried again, as it is over a connection without TLS.
- A ClientApp that is killed while it hands over its reply leaves half of it, and Flower's SuperNode waits for the other
  half for ever, connected and deaf; here the reply is given up.
- A line that is cut while the SuperLink says that it has taken an object costs the whole reply; here the SuperLink is
  asked what it has.
- A SuperLink cannot tell a SuperNode whose line was cut for a minute from a new one that knows nothing of the requests
  of the old one; here each process has a heartbeat interval of its own.
"""

import random
from collections.abc import Callable
from typing import Any

import httpx
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli import flower_supernode

from client.launcher.upload import HandedOver, PullObject, PushObject, pushed_or_there


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


def _replace() -> None:
    loop = _module_of_the_loop()
    push_messages: Callable[..., None] = loop["_push_messages"]
    pull_and_store: Callable[..., int | None] = loop["_pull_and_store_message"]
    pull_object: PullObject

    def pull_and_note_how(**how: Any) -> int | None:
        nonlocal pull_object
        pull_object = how["pull_object"]
        return pull_and_store(**how)

    def push_what_is_handed_over(state: Any, object_store: Any, send: Any, push_object: PushObject) -> None:
        push = pushed_or_there(push_object, pull_object)
        push_messages(state=state, object_store=HandedOver(object_store), send=send, push_object=push)

    loop["_pull_and_store_message"] = pull_and_note_how
    loop["_push_messages"] = push_what_is_handed_over
    vars(fleet_http_connection)["make_simple_http_retry_invoker"] = patient_retry_invoker
    vars(fleet_http_connection)["HEARTBEAT_DEFAULT_INTERVAL"] = HEARTBEAT_DEFAULT_INTERVAL + random.random()


def _module_of_the_loop() -> dict[str, Any]:
    # Flower's module and its only function bear one name.
    from flwr.supernode.start_client_internal import start_client_internal

    return start_client_internal.__globals__


if __name__ == "__main__":
    main()
