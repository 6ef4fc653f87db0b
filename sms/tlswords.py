"""Why a server's TLS failed, in words with a remedy; for errors of any library round OpenSSL's.

Nothing of `ssl` is needed for that: an error of it is known by what it carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# verify_code of OpenSSL (x509_vfy.h)
_NAME: Final = (62, 64)  # host name, address
_UNKNOWN: Final = (2, 7, 18, 19, 20, 21)  # issuer unknown, signed by another, self-signed
_EXPIRED, _NOT_YET = 10, 9
_OLD: Final = ("UNSUPPORTED_PROTOCOL", "ALERT_PROTOCOL_VERSION")
_PLAIN: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_DEEPEST: Final = 8  # errors behind errors


@dataclass(frozen=True, slots=True)
class Remedies:
    """Where to change what, in the words of one server's setting."""

    name: str  # the host that its certificate must be for
    ca: str  # whom we trust
    own: str  # our certificate


POSTGRES: Final = Remedies(
    "SMSGW_DATABASE_URL",
    "sslrootcert in SMSGW_DATABASE_URL",
    "sslcert and sslkey in SMSGW_DATABASE_URL",
)
VALKEY: Final = Remedies(
    "SMSGW_REDIS_URL",
    "ssl_ca_certs in SMSGW_REDIS_URL",
    "ssl_certfile and ssl_keyfile in SMSGW_REDIS_URL",
)


def tls_trouble(error: BaseException, remedies: Remedies) -> str | None:
    """What went wrong with TLS, of an error or what it was raised from; None: something else."""
    found: BaseException | None = error
    for _ in range(_DEEPEST):
        if found is None:
            return None
        code = getattr(found, "verify_code", None)
        if isinstance(code, int):
            return f"its certificate {_doubt(code, remedies)}"
        if any(kind.__name__ == "SSLError" for kind in type(found).__mro__):
            return _broken(str(getattr(found, "reason", None) or "no reason given"), remedies)
        found = found.__cause__ or found.__context__
    return None


def _doubt(code: int, remedies: Remedies) -> str:
    if code in _NAME:
        return f"is not for the host in {remedies.name}; write the name that it is for"
    if code in _UNKNOWN:
        return f"is signed by nobody we trust; name its authority's file: {remedies.ca}"
    if code == _EXPIRED:
        return "has expired; renew it there"
    if code == _NOT_YET:
        return "is not valid yet; check the clocks of both machines"
    return f"cannot be trusted (OpenSSL's code {code}); renew it there"


def _broken(reason: str, remedies: Remedies) -> str:
    if any(word in reason for word in _OLD):
        return "it has none of TLS 1.2 or newer; allow that there"
    if any(word in reason for word in _PLAIN):
        return f"this port does not speak TLS; correct the port in {remedies.name}"
    if "ALERT" in reason and ("CERT" in reason or "HANDSHAKE" in reason or "_CA" in reason):
        return f"it refuses us ({reason}); name the certificate that it asks for: {remedies.own}"
    return f"TLS broke off ({reason}); look whether both ends have TLS 1.2 or newer"
