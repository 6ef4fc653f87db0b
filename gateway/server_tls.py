"""The certificate this process shows, and how a new one is taken up while it serves.

    files ─▶ read ─▶ a whole new context ─▶ swapped ─▶ the next handshakes
                └──▶ does not do: the old context stays; a log line, a count, an alert

A context is never changed: OpenSSL takes the chain before it finds that the key is another's, and
would be left with both. A new one also has new ticket keys, so no resumed session lives on a
certificate that was replaced. Open connections keep theirs. Decision 0043.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from adapters.tls import load_pair
from gateway.settings import Settings
from sms.errors import ConfigError
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

SETTLE_S: Final = 1.0  # a pair that is being written is asked for again so much later
# Of TLS 1.2: forward secrecy and an AEAD, nothing else; 1.3 has no other ones.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_PAIR: Final = "SMSGW_TLS_CERT_FILE and SMSGW_TLS_KEY_FILE"
HTTP: Final = "http"  # the label of what is shown at our ports

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Files:
    """Where the pair is; PEM."""

    cert: Path
    key: Path
    client_ca: Path | None = None  # whose clients' certificates are taken; None = asks for none


@dataclass(frozen=True, slots=True)
class Read:
    """What stood in them."""

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes = b""


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown to who connects."""

    read: Read
    context: ssl.SSLContext
    begins: datetime
    ends: datetime  # of the first of its chain to end

    def is_valid(self, now: datetime) -> bool:
        """Whether a client whose clock is right takes it."""
        return self.begins <= now < self.ends


def files_of(settings: Settings) -> Files | None:
    """The pair that the settings name; None = plain HTTP."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Files(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)


def read(files: Files) -> Read:
    """The files' octets, as they are now; raises ConfigError naming the one that is not there."""
    found = []
    named = (("CERT", files.cert), ("KEY", files.key), ("CLIENT_CA", files.client_ca))
    for variable, path in named:
        if path is None:
            continue
        try:
            found.append(path.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"SMSGW_TLS_{variable}_FILE: {path} cannot be read ({error.strerror}); put it there"
            ) from None
    return Read(*found)


def make(found: Read) -> Shown:
    """A server's context of them: TLS 1.2 or newer, HTTP/1.1; raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        load_pair(context, found.cert, found.key)
        chain = x509.load_pem_x509_certificates(found.cert)
    except (ssl.SSLError, OSError, ValueError):
        raise ConfigError(
            f"{_PAIR} cannot be read or do not belong together; give both as PEM, the chain behind"
            " the certificate, the key without a password"
        ) from None
    if found.client_ca:
        # Optional: tenants say who must show one (`client_certificates`).
        context.verify_mode = ssl.CERT_OPTIONAL
        try:
            context.load_verify_locations(cadata=found.client_ca.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError):
            raise ConfigError(
                "SMSGW_TLS_CLIENT_CA_FILE holds no certificate that can be read; give PEM"
            ) from None
    return Shown(
        found,
        context,
        max(one.not_valid_before_utc for one in chain),
        min(one.not_valid_after_utc for one in chain),
    )


def out_of_time(files: Files, shown: Shown, now: datetime) -> str:
    """Why clients refuse the pair now; "" when its time is right."""
    if shown.is_valid(now):
        return ""
    return (
        f"SMSGW_TLS_CERT_FILE: {files.cert} is valid from {shown.begins:%Y-%m-%d}"
        f" to {shown.ends:%Y-%m-%d} only; put one there that is valid now"
    )


async def _at_once(look: Callable[[Files], Read], files: Files) -> Read:
    return look(files)


class ServerTls:
    """The pair of one process: `context` for the next handshake, `look` for a new one."""

    def __init__(
        self,
        files: Files,
        metrics: Metrics,
        *,
        settle_s: float = SETTLE_S,
        clock: Callable[[], float] = time.time,
        may_thread: bool = True,
    ) -> None:
        """Read them; raises ConfigError when they do not do.

        `may_thread`: not for who forks, the supervisor.
        """
        self._read = asyncio.to_thread if may_thread else _at_once
        self._files, self._metrics = files, metrics
        self._settle_s, self._clock = settle_s, clock
        self._now = asyncio.Event()
        self._trouble = ""  # why what stands there is not in use; "" = it is
        self._shown = make(read(files))
        for result in ("loaded", "failed"):  # from 0: a rate sees the first one too
            metrics.tls_reloads_total.inc((result,), 0)
        self._tell()

    def context(self) -> ssl.SSLContext:
        """For the next handshake."""
        return self._shown.context

    def ends(self) -> datetime:
        """When what is shown ends."""
        return self._shown.ends

    def ask(self) -> None:
        """Have `run` look at once."""
        self._now.set()

    async def run(self, every_s: float) -> None:
        """Look so often, and when asked, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._now.wait()
            self._now.clear()
            await self.look()

    async def look(self) -> None:
        """Take up what stands in the files when it is another pair and a good one."""
        trouble = await self._try()
        if trouble and trouble != self._trouble:
            await asyncio.sleep(self._settle_s)  # one of the two may be written at this moment
            trouble = await self._try()
        if trouble:
            self._metrics.tls_reloads_total.inc(("failed",))
            if trouble != self._trouble:
                log.warning("certificate not taken up: the old one stays", error=trouble)
        self._trouble = trouble

    async def _try(self) -> str:
        """Why what stands there cannot be taken; "" when it is in use."""
        try:
            # In a thread: the files may lie on a network's disk that does not answer.
            found = await self._read(read, self._files)
            if found == self._shown.read:
                return ""
            new = make(found)
        except ConfigError as error:
            return str(error)
        now = datetime.fromtimestamp(self._clock(), UTC)
        if self._shown.is_valid(now) and (trouble := out_of_time(self._files, new, now)):
            return trouble
        self._shown = new
        self._metrics.tls_reloads_total.inc(("loaded",))
        self._tell()
        log.info("certificate taken up", ends=new.ends.isoformat())
        return ""

    def _tell(self) -> None:
        ends = self._shown.ends.timestamp()
        self._metrics.certificate_expiry_timestamp_seconds.set((HTTP,), ends)
