"""Make the SuperLink's list of SuperNodes that of a folder of public keys, each under its hospital's name.

The name is what binds a key to a hospital: a run takes no other hospital from its SuperNode (``server/roster.py``).

``flwr supernode register`` adds one key at a time and fails on one that is there; the list that it prints does not
tell the keys. A SuperLink without database forgets the list when it ends, so it is made anew at every start.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import click
import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.cli.flower_config import read_superlink_connection
from flwr.cli.utils import init_http_client_from_connection
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    UnregisterNodeRequest,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from medvlmoe.errors import ConfigError
from server.provisioning.hospital_key import read_public_key

_POLL_SECONDS = 0.5


def synchronise(connection: str, folder: Path, seconds: float = 60.0) -> Iterator[str]:
    """Register the keys of ``folder/*.pub`` and unregister all others.

    Args:
        connection: name of the SuperLink connection in ``$FLWR_HOME/config.toml``.
        folder: public keys, each in a file that bears the hospital's name.
        seconds: how long to wait for the SuperLink to answer.

    Yields:
        What was done, a line for each hospital.

    Raises:
        ConfigError: no such connection, a file that is no key, one key for two hospitals, or no answer.
    """
    wanted = _wanted(folder)
    client = _client(connection)
    try:
        known = {node.public_key: node for node in _nodes(client, seconds) if node.status != "unregistered"}
        for key, name in wanted.items():
            yield _already(known[key], name) if key in known else _register(client, key, name)
        for key in known.keys() - wanted.keys():
            yield _unregister(client, known[key])
    finally:
        client.close()


def _client(connection: str) -> ControlHttpClient:
    try:
        return init_http_client_from_connection(read_superlink_connection(connection))
    except click.ClickException as error:
        raise ConfigError(f"{error.message}; read the kit's environment.sh first: . ./environment.sh") from error


def _nodes(client: ControlHttpClient, seconds: float) -> list[NodeInfo]:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return list(client.ListNodes(ListNodesRequest()).nodes_info)
        except httpx.TransportError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"the SuperLink does not answer ({error}); start it with start-superlink.sh"
                ) from error
            time.sleep(_POLL_SECONDS)


def _already(node: NodeInfo, name: str) -> str:
    """Flower cannot rename a key, nor take one again that was unregistered: a wrong name is told, and left alone."""
    if node.name == name:
        return f"{name}: registered already"
    found = (
        f"under another name, '{node.name}'" if node.name else "without a name, so that it could call itself anything"
    )
    return f"{name}: registered already, but {found}; restart the SuperLink (with a database: a new pair is needed)"


def _register(client: ControlHttpClient, key: bytes, name: str) -> str:
    try:
        client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
    except httpx.HTTPStatusError as error:
        for node in _nodes(client, 0):
            if node.public_key == key and node.status != "unregistered":
                return _already(node, name)  # since this moment, by another process
        # Flower keeps a key that was unregistered reserved as long as the SuperLink (or its database) lives.
        return f"{name}: refused ({_reason(error)}); a key that was unregistered needs a new pair"
    return f"{name}: registered"


def _unregister(client: ControlHttpClient, node: NodeInfo) -> str:
    name = node.name or f"a key without a name (node {node.node_id})"
    try:
        client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
    except httpx.HTTPStatusError as error:
        return f"{name}: NOT unregistered ({_reason(error)}); restart the SuperLink to be rid of it"
    return f"{name}: unregistered"


def _reason(error: httpx.HTTPStatusError) -> str:
    return f"HTTP {error.response.status_code}"


def _wanted(folder: Path) -> dict[bytes, str]:
    """The hospital's name by its key."""
    names: dict[bytes, str] = {}
    for path in sorted(folder.glob("*.pub")):
        other = names.setdefault(_key_bytes(path), path.stem)
        if other != path.stem:
            raise ConfigError(f"{folder}: {other}.pub and {path.name} are one key; each hospital needs its own")
    return names


def _key_bytes(path: Path) -> bytes:
    key = load_ssh_public_key(read_public_key(str(path)).encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return public_key_to_bytes(key)
