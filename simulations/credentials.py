"""What a federation proves itself with: a certificate for its SuperLink, and a pair of keys for each SuperNode.

TLS tells a node that it talks to the right server. Node authentication tells the server that it talks to a node whose
public key somebody registered. Private keys are readable by their owner alone.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_VALID = datetime.timedelta(days=30)  # a simulation's; nothing has to revoke them
_CLOCKS = datetime.timedelta(minutes=5)  # by which two machines may disagree


@dataclass(frozen=True)
class Tls:
    """The files of a server's certificate.

    Attributes:
        authority: certificate of the authority, which every node is given.
        certificate, key: the server's own.
    """

    authority: Path
    certificate: Path
    key: Path


def make_tls(folder: Path, hosts: Sequence[str]) -> Tls:
    """A certificate authority of one certificate: that of a server under some names and addresses.

    Args:
        folder: to write to, made if need be.
        hosts: names, and IP addresses as text, under which nodes reach the server.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _name("fedrec simulation authority")
    issuer_id = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    root = _unsigned(issuer, issuer, authority.public_key(), issuer_id)
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    root = root.add_extension(_usage(signs_certificates=True), critical=True)
    own = _unsigned(_name(hosts[0]), issuer, server.public_key(), issuer_id)
    own = own.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    own = own.add_extension(_usage(signs_certificates=False), critical=True)
    own = own.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    files = Tls(folder / "authority.pem", folder / "superlink.pem", folder / "superlink.key")
    for path, certificate in ((files.authority, root), (files.certificate, own)):
        path.write_bytes(certificate.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    _write_private(files.key, server, serialization.PrivateFormat.PKCS8)
    return files


@dataclass(frozen=True)
class NodeKeys:
    """The files of a node's keys: `private` never leaves the node, `public` is registered with the SuperLink."""

    private: Path
    public: Path


def make_node_keys(folder: Path) -> NodeKeys:
    """A pair of keys on NIST's curve P-384, in the format of OpenSSH, as Flower reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    files = NodeKeys(folder / "node.key", folder / "node.pub")
    _write_private(files.private, key, serialization.PrivateFormat.OpenSSH)
    encoding, public = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    files.public.write_bytes(key.public_key().public_bytes(encoding, public))
    return files


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, issuer_id: x509.SubjectKeyIdentifier
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> None:
    """Write a key into a file that only its owner can read from the first byte on."""
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
