"""A connection to the federation's public door, through the proxy if the environment names one."""

import base64
import http.client
import ssl
import urllib.request
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from client.config import ConnectionConfig

SECONDS = 10.0  # longest wait for one step of a connection


@dataclass(frozen=True)
class Answer:
    """What the door answered.

    Attributes:
        status: HTTP status.
        date: its ``Date`` header, if any.
        body: the beginning of the body.
    """

    status: int
    date: str | None
    body: bytes


def proxy_of(host: str) -> SplitResult | None:
    """The proxy that Flower takes to a host, from ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``."""
    proxies = urllib.request.getproxies_environment()
    address = proxies.get("https") or proxies.get("all")
    if not address or urllib.request.proxy_bypass(host):
        return None
    return urlsplit(address if "://" in address else f"http://{address}")


def next_hop(server: ConnectionConfig) -> tuple[str, int]:
    """Host and port that this machine really connects to: the proxy, or the door itself."""
    proxy = proxy_of(server.host)
    return (server.host, server.port) if proxy is None else (str(proxy.hostname), proxy.port or 80)


def connect(server: ConnectionConfig) -> http.client.HTTPSConnection:
    """An open connection whose certificate has been checked.

    Raises:
        OSError: not reachable; ``ssl.SSLCertVerificationError`` if the certificate is not to be trusted.
    """
    context = ssl.create_default_context(cafile=server.root_certificates)
    proxy = proxy_of(server.host)
    if proxy is None:
        connection = http.client.HTTPSConnection(server.host, server.port, timeout=SECONDS, context=context)
    else:
        host, port = next_hop(server)
        connection = http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)
        headers = {}
        if proxy.username is not None:
            given = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            headers["Proxy-Authorization"] = f"Basic {base64.b64encode(given.encode()).decode()}"
        connection.set_tunnel(server.host, server.port, headers)
    connection.connect()
    return connection


def post(connection: http.client.HTTPSConnection, path: str, body: bytes = b"") -> Answer:
    """One POST as a SuperNode sends it, but without a signature: nothing comes of it but the answer."""
    connection.request("POST", path, body=body, headers={"content-type": "application/protobuf"})
    response = connection.getresponse()
    text = response.read()
    return Answer(response.status, response.headers.get("Date"), text[:200])
