"""The group's own certificate authority: keys, requests, certificates.

What enters: names, addresses and PEM texts. What leaves: PEM texts. Called by `foundation` (which
makes the authority), `joining` (which makes a key and a request; the key never leaves the server)
and `admission` (which signs). Every certificate serves both ends of mutual TLS.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from everup.errors import Refused

AUTHORITY_DAYS = 7300
SERVER_DAYS = 1825
CLOCK_TOLERANCE = timedelta(days=1)
"""Certificates are valid from a day ago: a peer whose clock is behind must not refuse a new one."""


@dataclass(frozen=True)
class Authority:
    """Certificate and private key of the group's authority, as PEM."""

    certificate: bytes
    key: bytes


def make_authority(group: str) -> Authority:
    """A fresh authority for a group."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Everup"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"everup group {group}"),
        ]
    )
    builder = (
        _validity(x509.CertificateBuilder(), AUTHORITY_DAYS)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return Authority(certificate.public_bytes(serialization.Encoding.PEM), _key_text(key))


def make_request(name: str, key_text: bytes | None = None) -> tuple[bytes, bytes]:
    """A private key (a new one without `key_text`) and the request to certify it for `name`."""
    key = ec.generate_private_key(ec.SECP256R1()) if key_text is None else _read_key(key_text)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, _SHA256)
    return _key_text(key), request.public_bytes(serialization.Encoding.PEM)


def issue(authority: Authority, request: bytes, name: str, addresses: Sequence[str]) -> bytes:
    """A certificate for the key in `request`; name and addresses are ours to say, not its.

    Raises Refused when the request is not one, or asks for another name.
    """
    asked = _read_request(request, name)
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    key = _read_key(authority.key)
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    names += [x509.IPAddress(ip_address(address)) for address in dict.fromkeys(addresses)]
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        _validity(x509.CertificateBuilder(), SERVER_DAYS)
        .subject_name(asked.subject)
        .issuer_name(issuer.subject)
        .public_key(asked.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_issuer_key(issuer), critical=False)
    )
    return builder.sign(key, _SHA256).public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of a PEM certificate. Raises Refused when it is none."""
    try:
        return x509.load_pem_x509_certificate(certificate).fingerprint(_SHA256)
    except ValueError as error:
        raise Refused("this is not a certificate", code="bad-certificate") from error


def key_fingerprint(request: bytes) -> str:
    """Which key a request is about; equal for a repeated request of one server."""
    try:
        key = x509.load_pem_x509_csr(request).public_key()
    except ValueError as error:
        raise Refused("the certificate request cannot be read", code="bad-request") from error
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    digest = hashes.Hash(_SHA256)
    digest.update(key.public_bytes(serialization.Encoding.DER, form))
    return digest.finalize().hex()


_SHA256 = hashes.SHA256()


def _read_request(request: bytes, name: str) -> x509.CertificateSigningRequest:
    try:
        asked = x509.load_pem_x509_csr(request)
        valid = asked.is_signature_valid
    except (ValueError, InvalidSignature) as error:
        raise Refused("the certificate request cannot be read", code="bad-request") from error
    names = [a.value for a in asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not valid or names != [name] or len(list(asked.subject)) != 1:
        raise Refused(f"the certificate request is not for {name!r}", code="bad-request")
    return asked


def _issuer_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _validity(builder: x509.CertificateBuilder, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_TOLERANCE)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _read_key(text: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(text, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _key_text(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
