import ssl
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.supernode import fleet_http_connection

from client.launcher import supernode
from client.launcher.supernode import HandedOver, patient_retry_invoker

CUT = "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1006)"
WRONG = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1006)"


@pytest.mark.parametrize("kind", [httpx.ReadError, httpx.WriteError, httpx.ConnectError, httpx.RemoteProtocolError])
def test_a_cut_line_is_tried_again(kind: type[httpx.TransportError]) -> None:
    invoker = patient_retry_invoker()
    waits: list[float] = []
    invoker.wait_function = waits.append
    faults = [kind(CUT), kind(CUT)]

    def call() -> str:
        if faults:
            raise faults.pop()
        return "sent"

    assert invoker.invoke(call) == "sent"
    assert len(waits) == 2


def test_a_wrong_certificate_is_not_tried_again() -> None:
    invoker = patient_retry_invoker()
    invoker.wait_function = lambda seconds: pytest.fail("waited")

    def call() -> None:
        raise httpx.ConnectError(WRONG)

    with pytest.raises(httpx.ConnectError):
        invoker.invoke(call)


def test_pythons_own_words_for_a_cut_line() -> None:
    """What is looked for in the text is there when a real TLS connection is cut."""
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = ssl.create_default_context().wrap_bio(ours, theirs, server_hostname="example.org")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    ours.write_eof()
    with pytest.raises(ssl.SSLError) as fault:
        connection.do_handshake()
    assert supernode.is_cut_line(httpx.ConnectError(str(fault.value)))


def test_half_a_reply_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HandedOver(SimpleNamespace(get={"there": b"content", "gone": None}.get))
    slow = HandedOver(SimpleNamespace(get=lambda _: b"", delete=lambda _: "deleted"))
    monkeypatch.setattr(supernode, "_HANDOVER_SECONDS", 0.2)
    assert slow.get("coming") == b""
    assert slow.delete("coming") == "deleted"
    time.sleep(0.3)
    with pytest.raises(TimeoutError):
        slow.get("coming")
    assert store.get("there") == b"content" and store.get("gone") is None


def test_flower_uses_what_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a version of Flower do without one of these names, the mends would be without effect."""
    loop: dict[str, Any] = supernode._module_of_the_loop()
    assert "_push_messages" in loop["start_client_internal"].__code__.co_names
    connection = fleet_http_connection.http_request_response.__wrapped__  # type: ignore[attr-defined]
    assert "make_simple_http_retry_invoker" in connection.__code__.co_names
    monkeypatch.setitem(loop, "_push_messages", loop["_push_messages"])
    monkeypatch.setattr(fleet_http_connection, "make_simple_http_retry_invoker", None)
    supernode._replace()
    assert fleet_http_connection.make_simple_http_retry_invoker is patient_retry_invoker
