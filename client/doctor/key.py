"""The SuperNode's private key: there, the right kind, and nobody else's to read."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.doctor.finding import Findings, fail, ok
from client.doctor.patient import Patient

SUBJECT = "key"


def check_key(patient: Patient) -> Findings:
    """``server.key``."""
    path = Path(patient.server.key)
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        yield fail(SUBJECT, f"{path}: {error.strerror}", "put the key of your kit there, or mend server.key")
        return
    except (ValueError, TypeError, UnsupportedAlgorithm):
        yield fail(SUBJECT, f"{path} is no OpenSSH private key without passphrase", "use the key of your kit")
        return
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        yield fail(SUBJECT, f"{path} is no P-384 key", "make one with ssh-keygen -t ecdsa -b 384 -N ''")
        return
    others = path.stat().st_mode & 0o077
    if others:
        yield fail(SUBJECT, f"{path} may be read by other accounts", f"chmod 600 {path}")
        return
    yield ok(SUBJECT, f"{path}, P-384, mode 0600")
