"""Can this machine reach the door, and is the SuperNode's own port free?"""

import socket

from client.doctor.finding import FAIL, Finding, Findings, fail, ok
from client.doctor.patient import Patient
from client.doctor.way import SECONDS, next_hop


def check_reach(patient: Patient) -> Findings:
    """A TCP connection to the door, or to the proxy before it."""
    host, port = next_hop(patient.server)
    try:
        with socket.create_connection((host, port), timeout=SECONDS):
            yield ok("reach", f"{host}:{port} takes connections")
    except socket.gaierror as error:
        yield fail("reach", f"no address for {host} ({error.strerror})", "mend server.address, the proxy, or DNS")
    except TimeoutError:
        yield fail("reach", f"{host}:{port} does not answer", f"let outgoing TCP to {host}:{port} through the firewall")
    except OSError as error:
        yield fail("reach", f"{host}:{port}: {error.strerror or error}", "is the server up, and server.address right?")


def check_runtime_port(patient: Patient) -> Findings:
    """The port where the SuperNode serves its ClientApp: free, or taken by a SuperNode that runs already."""
    port = patient.server.runtime_port
    if runtime_port_is_free(port):
        yield ok("runtime port", f"127.0.0.1:{port} is free")
    else:
        yield Finding(
            "warn", "runtime port", f"127.0.0.1:{port} is taken", "fine if it is this site's SuperNode that runs "
            "already; otherwise set server.runtime_port to another port"
        )  # fmt: skip


def runtime_port_is_free(port: int) -> bool:
    """Whether a SuperNode could take the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def reached(findings: list[Finding]) -> bool:
    """Whether it makes sense to go on."""
    return all(finding.level != FAIL for finding in findings)
