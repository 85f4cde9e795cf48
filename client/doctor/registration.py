"""Does the SuperLink know this site's key? The SuperNode's own first and last request tell."""

from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.doctor.finding import Findings, fail, ok, warn
from client.doctor.patient import Patient
from client.doctor.ports import runtime_port_is_free

SUBJECT = "registration"


def check_registration(patient: Patient) -> Findings:
    """Activate this site's SuperNode and deactivate it at once. Not while it runs: one key is one SuperNode."""
    server = patient.server
    if not runtime_port_is_free(server.runtime_port):
        yield ok(SUBJECT, "not looked at while the SuperNode runs; its own log tells")
        return
    private_key = load_ssh_private_key(Path(server.key).read_bytes(), password=None)
    assert isinstance(private_key, ec.EllipticCurvePrivateKey)
    interceptors: list[ProtobufClientInterceptor] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(private_key, private_key.public_key()),
    ]
    client = FleetHttpClient.from_server_address(
        server.address, False, server.root_certificates, interceptors=interceptors
    )
    key = public_key_to_bytes(private_key.public_key())
    try:
        with client:
            node = client.ActivateNode(
                ActivateNodeRequest(public_key=key, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
            )
            client.DeactivateNode(DeactivateNodeRequest(node_id=node.node_id))
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            yield fail(
                SUBJECT, "the signature is refused", "set this machine's clock (NTP); or server.key is not yours"
            )
        elif error.response.status_code == httpx.codes.NOT_FOUND:
            yield fail(SUBJECT, "the door lets no SuperNode in (404)", "is server.address the door of the federation?")
        else:
            yield fail(
                SUBJECT,
                f"the SuperLink does not take this key ({error.response.status_code})",
                "have its public half registered; after a hard kill of the SuperNode, wait a minute",
            )
    except httpx.HTTPError as error:
        yield warn(SUBJECT, f"could not be looked at: {error}", "try again")
    else:
        yield ok(SUBJECT, "the SuperLink knows this site's key")
