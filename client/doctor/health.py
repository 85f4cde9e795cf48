"""gRPC health checks, as SuperNode, SuperLink and SuperExec answer them (``--health-server-address``)."""

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from client.doctor.finding import Finding, Findings, fail, ok, warn
from client.doctor.patient import Patient
from client.doctor.way import SECONDS


def check_health(patient: Patient) -> Findings:
    """This site's SuperNode, if ``server.health_address`` says where it answers."""
    address = patient.server.health_address
    if address is None:
        yield ok("health", "server.health_address is not set: the SuperNode answers no health checks")
        return
    found = health_of(address)
    if found.level == "fail":
        yield warn("health", found.text, "start the SuperNode, unless you have not yet")
    else:
        yield found


def health_of(address: str) -> Finding:
    """What the health service at ``host:port`` answers. It speaks no TLS, so it belongs on loopback."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError as error:
            return fail("health", f"{address} answers {error.code().name}", "is that process running?")
    if answer.status != HealthCheckResponse.SERVING:
        return fail("health", f"{address} is not serving", "see that process's log")
    return ok("health", f"{address} is serving")
