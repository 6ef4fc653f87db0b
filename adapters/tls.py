"""TLS between a channel's socket and its session, sans I/O: octets in, octets out.

    socket ─▶ Tls.receive ─▶ session        session ─▶ Tls.seal ─▶ socket

The sockets stay plain ones: what a carrier has not taken yet is known to the octet, and a process
without a lease must know it (`Channel.cut_unwritten`); asyncio's own TLS hides it. The carrier's
certificate and name are always checked; a carrier with a certificate of its own making gives it
as `tls_ca`.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from adapters.checks import TLS_NAMES
from sms.errors import ConfigError, ConnectFailed

_READ_MAXIMUM = 64 * 1024

# verify_code of OpenSSL (x509_vfy.h): what an operator can do about it
_NAME_CODES: Final = (62, 64)  # host name, address
_UNKNOWN_CODES: Final = (2, 7, 18, 19, 20, 21)  # issuer unknown, signed by another, self-signed
_EXPIRED, _NOT_YET = 10, 9
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_OLD: Final = ("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION")


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How a channel's connections are protected; certificates and key are PEM text."""

    server_name: str  # what the carrier's certificate must be for
    ca: str = ""  # who may have signed it; "" = whom this system trusts
    cert: str = ""  # ours, for carriers that ask for one, its chain behind it
    key: str = field(default="", repr=False)


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """The context of a channel's connections; ConfigError names the setting that is wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    if settings.ca:
        # A carrier's own certificate will do too, not only an authority's.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(cadata=settings.ca)
        except (ssl.SSLError, ValueError):
            raise ConfigError("tls_ca: holds no certificate that can be read; give PEM") from None
    else:
        context.load_default_certs()
    if settings.cert:
        _load_own(context, settings)
    return context


def tls_of(raw: Mapping[str, Any]) -> TlsSettings | None:
    """What the settings of a channel on a wire say of TLS (`checks.TLS`); None = none."""
    if not raw.get("tls"):
        return None
    own = {name: raw.get(name, "") for name in TLS_NAMES}
    return TlsSettings(
        own["tls_server_name"] or raw["host"], own["tls_ca"], own["tls_cert"], own["tls_key"]
    )


def find_wrong(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    """Whether the certificates of a channel can be read: (JSON pointer, what to do).

    To be asked of settings with which all else is right.
    """
    own = tls_of(raw)
    try:
        if own is not None:
            make_context(own)
    except ConfigError as error:
        name, _, detail = str(error).partition(": ")
        return [(f"/{name}", detail)]
    return []


def trusting(ca: str) -> ssl.SSLContext:
    """The context of a vendor's connections; ConfigError when `ca` cannot be read."""
    try:
        return make_context(TlsSettings("", ca))
    except ConfigError:
        raise ConfigError("ca: holds no certificate that can be read; give PEM") from None


def _load_own(context: ssl.SSLContext, settings: TlsSettings) -> None:
    try:
        load_pair(context, settings.cert.encode(), settings.key.encode())
    except (ssl.SSLError, OSError, ValueError):
        raise ConfigError(
            "tls_cert: it and tls_key cannot be read or do not belong together; give both as"
            " PEM, the key without a password"
        ) from None


def load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Give a context our certificate (its chain behind it) and its key, both PEM in memory.

    Raises ssl.SSLError, OSError or ValueError, and the context is then of no use.
    """
    with _nameless_file() as file:
        file.write(cert + b"\n" + key + b"\n")
        file.flush()
        # The password keeps OpenSSL from asking a terminal for one.
        context.load_cert_chain(f"/dev/fd/{file.fileno()}", password="")


def _nameless_file() -> BinaryIO:
    """OpenSSL's loader takes files only; a key in memory need not reach a disk for that."""
    if hasattr(os, "memfd_create"):  # Linux
        return os.fdopen(os.memfd_create("tls"), "w+b")
    return tempfile.TemporaryFile()


class Tls:
    """One connection's TLS. Errors are ConnectFailed, in words with a remedy."""

    def __init__(self, context: ssl.SSLContext, server_name: str) -> None:
        self.is_open = False  # the handshake is done: what the session has may be sealed
        self.is_over = False  # the carrier said good-bye
        self._name = server_name
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    def start(self) -> bytes:
        """The first octets to write."""
        self._shake()
        return self.to_send()

    def to_send(self) -> bytes:
        """What TLS itself has to say: handshake, alerts; handed out once."""
        return self._outgoing.read()

    def seal(self, data: bytes) -> bytes:
        """What to write for these octets of the session; only while `is_open`.

        Nothing of them on a broken connection: its end is told by `receive` or by the socket.
        """
        with contextlib.suppress(ssl.SSLError):
            self._tls.write(data)
        return self.to_send()

    def receive(self, data: bytes) -> bytes:
        """What the carrier said to the session; `to_send` may have something afterwards."""
        self._incoming.write(data)
        if not self.is_open:
            self._shake()
            if not self.is_open:
                return b""
        plain: list[bytes] = []
        try:
            while True:
                piece = self._tls.read(_READ_MAXIMUM)
                if not piece:
                    self.is_over = True
                    break
                plain.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_over = True
        except ssl.SSLError as error:
            raise ConnectFailed(self._explain(error)) from None
        return b"".join(plain)

    def good_bye(self) -> bytes:
        """The last octets to write; nothing is awaited."""
        if self.is_open:
            # It wants to read the carrier's own, or the connection is broken already.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        return self.to_send()

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise ConnectFailed(self._explain(error)) from None
        self.is_open = True

    def _explain(self, error: ssl.SSLError) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"TLS: the carrier's certificate {self._doubt(error)}"
        reason = error.reason or "no reason given"
        if reason in _NO_TLS:
            return "TLS: this port does not speak it; set port to the TLS one, or tls to false"
        if reason in _OLD:
            return "TLS: the carrier has none of 1.2 or newer; ask it for a port that has"
        if "ALERT" in reason and ("CERT" in reason or "HANDSHAKE" in reason or "_CA" in reason):
            return (
                f"TLS: the carrier refused us ({reason}); set tls_cert_file and tls_key_file to"
                " the certificate that it gave or knows"
            )
        return f"TLS: broken off ({reason})"

    def _doubt(self, error: ssl.SSLCertVerificationError) -> str:
        code = error.verify_code
        if code in _NAME_CODES:
            return f"is not for {self._name}; set tls_server_name to a name that it is for"
        if code in _UNKNOWN_CODES:
            return (
                "is signed by nobody this system knows; set tls_ca_file to the authority's"
                " certificate, or to the carrier's own"
            )
        if code == _EXPIRED:
            return "has expired; ask the carrier for a new one"
        if code == _NOT_YET:
            return "is not valid yet; check the clock of this machine"
        return f"cannot be trusted ({error.verify_message}); ask the carrier"
