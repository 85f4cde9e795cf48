import ssl
from types import CodeType
from typing import Any

import httpx
import pytest
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.supernode import fleet_http_connection

from client.launcher import supernode
from client.launcher.supernode import patient_retry_invoker

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


def test_flower_uses_what_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a version of Flower do without one of these names, the mends would be without effect."""
    loop: dict[str, Any] = supernode._module_of_the_loop()
    connection = fleet_http_connection.http_request_response.__wrapped__  # type: ignore[attr-defined]
    assert "make_simple_http_retry_invoker" in connection.__code__.co_names
    assert "HEARTBEAT_DEFAULT_INTERVAL" in {*connection.__code__.co_names, *_names_inside(connection.__code__)}
    for name in ("_push_messages", "_pull_and_store_message"):
        assert name in loop["start_client_internal"].__code__.co_names
        monkeypatch.setitem(loop, name, loop[name])
    monkeypatch.setattr(fleet_http_connection, "make_simple_http_retry_invoker", None)
    monkeypatch.setattr(fleet_http_connection, "HEARTBEAT_DEFAULT_INTERVAL", None)
    supernode._replace()
    assert fleet_http_connection.make_simple_http_retry_invoker is patient_retry_invoker
    interval = fleet_http_connection.HEARTBEAT_DEFAULT_INTERVAL
    assert isinstance(interval, float) and HEARTBEAT_DEFAULT_INTERVAL < interval < HEARTBEAT_DEFAULT_INTERVAL + 1


def _names_inside(code: CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return {name for function in inner for name in function.co_names}
