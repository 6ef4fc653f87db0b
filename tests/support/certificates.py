"""Certificates made on the spot, for tests of TLS."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True)
class Made:
    """A certificate and its key, as PEM text."""

    cert: str
    key: str

    def file(self, path: Path) -> Path:
        """Both in one file."""
        path.write_text(self.cert + self.key, encoding="ascii")
        return path


class Authority:
    """Signs certificates; its own is `cert`."""

    def __init__(self, name: str = "an authority") -> None:
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.cert = self._make(self._name, self._key.public_key(), [], is_ca=True, days=1)

    def issue(self, name: str, *, days: int = 1) -> Made:
        """A certificate for a host name or an address; negative `days`: it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self._make(
            _name(name), key.public_key(), [_alternative(name)], is_ca=False, days=days
        )
        return Made(cert, pem_of(key))

    def _make(
        self,
        subject: x509.Name,
        public: ec.EllipticCurvePublicKey,
        names: list[x509.GeneralName],
        *,
        is_ca: bool,
        days: int,
    ) -> str:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode("ascii")


def pem_of(key: ec.EllipticCurvePrivateKey, password: bytes = b"") -> str:
    """The key as PEM text."""
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    ).decode("ascii")
