"""Certificates are checked by the parties that will check them: OpenSSL's strict mode and a real TLS handshake."""

import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from medvlmoe.errors import ConfigError
from server.provisioning.authority import Authority, hosts_of, read_certificate, read_key, server_certificate

HOSTS = ("localhost", "127.0.0.1", "2001:db8::1")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "authority", "lungs", days=30)


def handshake(folder: Path, authority: Authority, host: str) -> None:
    """A TLS connection over a socket pair; raises what the client's verification raises."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(folder / "server.crt", folder / "server.key")
    client_context = ssl.create_default_context(cafile=authority.folder / "ca.crt")
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server_context.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client_context.wrap_socket(ours, server_hostname=host).close()
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_trusts_the_server_under_each_of_its_names(tmp_path: Path, authority: Authority, host: str) -> None:
    server_certificate(authority, tmp_path, "server", HOSTS, days=1, renew=False)
    handshake(tmp_path, authority, host)


def test_no_other_name_no_other_authority_no_expired_certificate(tmp_path: Path, authority: Authority) -> None:
    server_certificate(authority, tmp_path, "server", HOSTS, days=1, renew=False)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(tmp_path, authority, "example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|signature"):
        handshake(tmp_path, Authority.open(tmp_path / "other", "lungs", days=30), "localhost")
    expired = authority.issue(read_key(tmp_path / "server.key"), HOSTS, "server", days=-1)
    (tmp_path / "server.crt").write_bytes(expired.public_bytes(Encoding.PEM))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(tmp_path, authority, "localhost")


def test_the_authority_signs_servers_only(tmp_path: Path, authority: Authority) -> None:
    """A certificate that a server's key signs is worth nothing."""
    server_certificate(authority, tmp_path / "first", "server", HOSTS, days=1, renew=False)
    shutil.copy(tmp_path / "first" / "server.crt", tmp_path / "first" / "ca.crt")
    shutil.copy(tmp_path / "first" / "server.key", tmp_path / "first" / "ca.key")
    pretender = Authority.open(tmp_path / "first", "lungs", days=1)
    server_certificate(pretender, tmp_path, "server", HOSTS, days=1, renew=False)
    chain = (tmp_path / "server.crt").read_text() + (tmp_path / "first" / "server.crt").read_text()
    (tmp_path / "server.crt").write_text(chain)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, authority, "localhost")
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca and constraints.path_length == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_accepts_the_chain_in_its_strict_mode(tmp_path: Path, authority: Authority) -> None:
    server_certificate(authority, tmp_path, "server", HOSTS, days=1, renew=False)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", authority.folder / "ca.crt"]
    subprocess.run([*command, tmp_path / "server.crt"], check=True, capture_output=True)


def test_a_second_time_keeps_key_and_certificate_and_renewing_keeps_the_key(
    tmp_path: Path, authority: Authority
) -> None:
    server_certificate(authority, tmp_path, "server", HOSTS, days=100, renew=False)
    key, certificate = (tmp_path / "server.key").read_bytes(), (tmp_path / "server.crt").read_bytes()
    assert server_certificate(authority, tmp_path, "server", HOSTS, days=100, renew=False) == ""
    assert (tmp_path / "server.crt").read_bytes() == certificate
    server_certificate(authority, tmp_path, "server", HOSTS, days=200, renew=True)
    assert (tmp_path / "server.crt").read_bytes() != certificate
    assert (tmp_path / "server.key").read_bytes() == key


def test_what_a_person_should_know(tmp_path: Path, authority: Authority) -> None:
    server_certificate(authority, tmp_path, "server", HOSTS, days=20, renew=False)
    assert "run again with renew=true" in server_certificate(authority, tmp_path, "server", HOSTS, 20, False)
    server_certificate(authority, tmp_path, "server", HOSTS, days=100, renew=True)
    assert "for the new hosts" in server_certificate(authority, tmp_path, "server", ["other.org"], 100, False)
    server_certificate(authority, tmp_path, "server", ["other.org"], days=100, renew=True)
    assert hosts_of(read_certificate(tmp_path / "server.crt")) == ["other.org"]


def test_the_authoritys_key_is_only_needed_to_issue(tmp_path: Path, authority: Authority) -> None:
    server_certificate(authority, tmp_path, "server", HOSTS, days=100, renew=False)
    (authority.folder / "ca.key").unlink()
    again = Authority.open(authority.folder, "lungs", days=30)
    assert server_certificate(again, tmp_path, "server", HOSTS, days=100, renew=False) == ""
    with pytest.raises(ConfigError, match=r"ca\.key is needed to issue"):
        server_certificate(again, tmp_path, "server", HOSTS, days=100, renew=True)
    (authority.folder / "ca.crt").unlink()
    (authority.folder / "ca.key").touch()
    with pytest.raises(ConfigError, match=r"no ca\.crt"):
        Authority.open(authority.folder, "lungs", days=30)
