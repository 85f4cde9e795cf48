"""A hospital's key pair: P-384 in OpenSSH format, as ``ssh-keygen -t ecdsa -b 384`` writes it and Flower reads it."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from medvlmoe.errors import ConfigError
from server.provisioning.files import write_private_once


def public_key_of_pair(path: Path) -> str:
    """The public key of the private key at ``path``, which is made when it is not there.

    Raises:
        ConfigError: the file is not a P-384 private key without passphrase.
    """
    if not path.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        write_private_once(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    try:
        found = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is not an OpenSSH private key without passphrase; bring it back") from error
    return _as_line(found.public_key(), str(path))


def read_public_key(given: str) -> str:
    """A hospital's own public key as one line.

    Args:
        given: the line itself (``ecdsa-sha2-nistp384 AAAA…``), or the file that holds it.

    Raises:
        ConfigError: no such file, or not a P-384 public key in OpenSSH format.
    """
    try:
        line = given if given.startswith("ecdsa-") else Path(given).read_text(encoding="utf-8")
        return _as_line(load_ssh_public_key(line.strip().encode()), given)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"public_key {given}: not a P-384 public key in OpenSSH format; make one with "
            "ssh-keygen -t ecdsa -b 384 -N '' -f supernode.key and hand in supernode.key.pub"
        ) from error


def _as_line(key: object, source: str) -> str:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError(f"{source} is not a P-384 key; make one with ssh-keygen -t ecdsa -b 384")
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
