"""The two hashes of a CMPP login.

    AuthenticatorSource = MD5(Source_Addr + 9 × 0x00 + secret + MMDDHHMMSS)
    AuthenticatorISMG   = MD5(Status + AuthenticatorSource + secret)

How Status enters the second one is not the same anywhere, and some carriers send a constant: a
login never depends on it.
"""

from __future__ import annotations

from hashlib import md5


def _md5(octets: bytes) -> bytes:
    return md5(octets, usedforsecurity=False).digest()  # the standard's own; TLS is what secures


def authenticator_source(source_addr: str, secret: str, stamp: int) -> bytes:
    """What the client proves itself with; `stamp` is MMDDHHMMSS, hashed with its leading zero."""
    return _md5(
        source_addr.encode("latin-1") + bytes(9) + secret.encode("latin-1") + b"%010d" % stamp
    )


def authenticators_ismg(status: int, source: bytes, secret: str) -> tuple[bytes, ...]:
    """The forms seen of the carrier's: Status as one octet, as four, as a decimal text."""
    rest = source + secret.encode("latin-1")
    forms = ((status & 0xFF).to_bytes(1, "big"), status.to_bytes(4, "big"), str(status).encode())
    return tuple(_md5(form + rest) for form in forms)
