"""The server's certificate, checked as Flower checks it."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from client.doctor.finding import Findings, fail, ok, warn
from client.doctor.patient import Patient
from client.doctor.way import connect

SUBJECT = "tls"
_SOON = timedelta(days=30)
# Of OpenSSL's verification codes, those with a mend of their own.
_MENDS = {
    9: "the certificate is not valid yet: set this machine's clock (NTP)",
    10: "the server needs a new certificate (medvlmoe provision … renew=true); or this machine's clock is wrong",
    62: "use the host name that the certificate is for as server.address, or have it issued for this one",
    64: "use the host name that the certificate is for as server.address, or have it issued for this address",
}
_OTHER_AUTHORITY = "server.root_certificates is not the authority that signed it: use ca.crt of your kit; or a \
firewall between you inspects TLS, and must not for this host"


def check_certificate(patient: Patient) -> Findings:
    """The chain to ``server.root_certificates``, the host name and the dates."""
    server = patient.server
    path = Path(server.root_certificates)
    try:
        ssl.create_default_context(cafile=str(path))
    except ssl.SSLError:
        yield fail(SUBJECT, f"{path} holds no PEM certificate", "use ca.crt of your kit")
        return
    except OSError as error:
        yield fail(
            SUBJECT, f"{path}: {error.strerror}", "put ca.crt of your kit there, or mend server.root_certificates"
        )
        return
    try:
        connection = connect(server)
    except ssl.SSLCertVerificationError as error:
        mend = _MENDS.get(error.verify_code, _OTHER_AUTHORITY)
        yield fail(SUBJECT, f"{server.address}: {error.verify_message}", mend)
        return
    except ssl.SSLError as error:
        yield fail(SUBJECT, f"{server.address} speaks no TLS ({error.reason})", "is server.address the public door?")
        return
    except OSError as error:
        yield fail(SUBJECT, f"{server.address}: {error}", "see the proxy's or firewall's log")
        return
    assert isinstance(connection.sock, ssl.SSLSocket)
    certificate = connection.sock.getpeercert() or {}
    connection.close()
    until = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    text = f"certificate of {server.host} is valid until {until:%Y-%m-%d}"
    if until - datetime.now(UTC) < _SOON:
        yield warn(SUBJECT, text, "tell whoever runs the federation (medvlmoe provision … renew=true)")
    else:
        yield ok(SUBJECT, text)
