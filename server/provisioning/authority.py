"""The federation's certificate authority, and the server certificates that it issues.

Keys are P-384 (authority) and P-256 (servers). The authority may sign server certificates only (path length 0), which
carry what Python's strict verification asks for (RFC 5280).
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from medvlmoe.errors import ConfigError
from server.provisioning.files import write_if_changed, write_private_once

# A certificate counts from a while ago, so that a hospital whose clock is slow accepts it at once.
_CLOCK_TOLERANCE = datetime.timedelta(hours=1)
# From here on a run of `medvlmoe provision` tells that a certificate is about to expire.
EXPIRES_SOON = datetime.timedelta(days=30)


@dataclass(kw_only=True)
class Authority:
    """A certificate authority in a folder of its own: ``ca.key`` (keep it offline) and ``ca.crt`` (everyone's).

    Attributes:
        folder: where the two files are.
        certificate: ``ca.crt``.
    """

    folder: Path
    certificate: x509.Certificate

    @classmethod
    def open(cls, folder: Path, federation: str, days: int) -> "Authority":
        """The authority of a folder; made when the folder has none.

        Raises:
            ConfigError: one of its files is there without the certificate, or cannot be read.
        """
        path = folder / "ca.crt"
        if not path.exists():
            if (folder / "ca.key").exists():
                raise ConfigError(f"{folder} has a ca.key but no ca.crt; bring back ca.crt or move ca.key away")
            _create(folder, federation, days)
        return cls(folder=folder, certificate=read_certificate(path))

    def issue(self, key: ec.EllipticCurvePrivateKey, hosts: Sequence[str], name: str, days: int) -> x509.Certificate:
        """A server certificate.

        Args:
            key: the server's private key.
            hosts: DNS names and IP addresses that the certificate is good for.
            name: common name; informative only.
            days: validity from now.

        Raises:
            ConfigError: ``ca.key`` is not there, or is not that of ``ca.crt``.
        """
        public_key = key.public_key()
        return (
            _builder(_name(name), self.certificate.subject, public_key, days)
            .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_authority_identifier(self.certificate), critical=False)
            .sign(self._key(), hashes.SHA384())
        )

    def _key(self) -> ec.EllipticCurvePrivateKey:
        key = read_key(self.folder / "ca.key")
        if key.public_key() != self.certificate.public_key():
            raise ConfigError(f"{self.folder}/ca.key does not belong to ca.crt beside it; bring back the right one")
        return key


def server_certificate(
    authority: Authority, folder: Path, name: str, hosts: Sequence[str], days: int, renew: bool
) -> str:
    """Make ``<name>.key`` and ``<name>.crt`` in a folder where they are missing.

    Args:
        authority: who signs.
        folder: a server's kit.
        name: of the two files.
        hosts: DNS names and IP addresses of the certificate.
        days: validity from now.
        renew: issue a new certificate for the key that is there.

    Returns:
        What a person should know, or an empty text.

    Raises:
        ConfigError: a certificate is to be issued and the authority's key is not there.
    """
    key_path, path = folder / f"{name}.key", folder / f"{name}.crt"
    if not key_path.exists():
        write_private_once(key_path, _pem(ec.generate_private_key(ec.SECP256R1())))
    key = read_key(key_path)
    old = read_certificate(path) if path.exists() else None
    if old is None or renew or old.public_key() != key.public_key():
        certificate = authority.issue(key, hosts, name, days)
        write_if_changed(path, certificate.public_bytes(Encoding.PEM).decode())
        return f"{name}.crt is valid until {certificate.not_valid_after_utc:%Y-%m-%d}"
    until = old.not_valid_after_utc
    if until < datetime.datetime.now(datetime.UTC) + EXPIRES_SOON:
        return f"{name}.crt expires on {until:%Y-%m-%d}: run again with renew=true"
    if set(hosts_of(old)) != set(hosts):
        return f"{name}.crt is for {', '.join(hosts_of(old))}: for the new hosts, run again with renew=true"
    return ""


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """DNS names and IP addresses of a server certificate."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def read_certificate(path: Path) -> x509.Certificate:
    """Read a PEM certificate.

    Raises:
        ConfigError: it is missing or is not one.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a certificate ({error}); bring it back from a backup") from error


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a PEM private key.

    Raises:
        ConfigError: it is missing or is not an elliptic-curve key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is needed to issue a certificate; bring it back for this command") from error
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a private key ({error}); bring it back from a backup") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is not an elliptic-curve key; bring back the one that was made here")
    return key


def _create(folder: Path, federation: str, days: int) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name(f"{federation} federation authority")
    certificate = (
        _builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    write_private_once(folder / "ca.key", _pem(key))
    write_if_changed(folder / "ca.crt", certificate.public_bytes(Encoding.PEM).decode())


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, until) - _CLOCK_TOLERANCE)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _authority_identifier(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _key_usage(**used: bool) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{name: used.get(name, False) for name in every})


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
