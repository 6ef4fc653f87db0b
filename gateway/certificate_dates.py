"""When the certificates that we use end: what we show, what we trust, at every peer.

    http, http:ca             what our own ports show, and whose clients they take
    database:ca :client       the files that SMSGW_DATABASE_URL names
    valkey:ca :client         the files that SMSGW_REDIS_URL names
    channel:NAME:ca :client   what a channel has of its own

A certificate of ours counts with the first of its chain to end. Of authorities in one file the
last one counts: an old one beside a new one is a change under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from cryptography import x509

from gateway.server_tls import HTTP
from gateway.settings import Settings
from sms import config
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

LOOK_S: Final = 60.0
_UNREAD: Final = "certificate cannot be read"
_OWN: Final = "client"
_TRUSTED: Final = "ca"
# What an address calls its files, by ours.
_DATABASE: Final = {"sslrootcert": _TRUSTED, "sslcert": _OWN}
_VALKEY: Final = {"ssl_ca_certs": _TRUSTED, "ssl_certfile": _OWN}
_CHANNEL: Final = {"tls_ca": _TRUSTED, "tls_cert": _OWN, "ca": _TRUSTED}

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Dates:
    """From when to when a certificate is good."""

    begins: datetime
    ends: datetime


def dates_of(pem: bytes, kind: str = _OWN) -> Dates:
    """Of a chain of ours, or of authorities; raises ValueError where there is none."""
    found = x509.load_pem_x509_certificates(pem)
    pick = max if kind == _TRUSTED else min
    last = pick(found, key=lambda one: one.not_valid_after_utc)
    begins = last.not_valid_before_utc
    if kind == _OWN:
        begins = max(one.not_valid_before_utc for one in found)
    return Dates(begins, last.not_valid_after_utc)


def files_of(settings: Settings) -> dict[str, Path]:
    """The files of certificates that settings name, but for what our ports show; by label."""
    found = {}
    if settings.tls_client_ca_file is not None:
        found["http:ca"] = settings.tls_client_ca_file
    for place, url, names in (
        ("database", settings.database_url, _DATABASE),
        ("valkey", settings.redis_url, _VALKEY),
    ):
        for name, path in parse_qsl(urlsplit(url or "").query):
            if name in names and path != "system":
                found[f"{place}:{names[name]}"] = Path(path).expanduser()
    return found


def of_channels(channels: Iterable[config.Channel]) -> dict[str, Dates]:
    """Of each channel that has certificates of its own; by label."""
    found = {}
    for channel in channels:
        for name, kind in _CHANNEL.items():
            if pem := channel.settings.get(name):
                label = f"channel:{channel.name}:{kind}"
                try:
                    found[label] = dates_of(str(pem).encode(), kind)
                except ValueError:  # OpenSSL took it, and it is read more strictly here
                    log.warning(_UNREAD, certificate=label)
    return found


def of_files(files: Mapping[str, Path]) -> dict[str, Dates]:
    """What can be read of them: what cannot is away with its server, which is told there."""
    found = {}
    for label, path in files.items():
        try:
            found[label] = dates_of(path.read_bytes(), label.rpartition(":")[2])
        except (OSError, ValueError):
            log.warning(_UNREAD, certificate=label)
    return found


class ExpiryGauge:
    """Sets the gauge; `ends` is of what our ports show, None without TLS there."""

    def __init__(
        self, settings: Settings, metrics: Metrics, ends: Callable[[], datetime | None]
    ) -> None:
        self._files, self._metrics, self._ends = files_of(settings), metrics, ends

    async def look(self, channels: Iterable[config.Channel]) -> None:
        """Set it anew, from the channels in force and the files as they are."""
        found = of_channels(channels)
        if self._files:
            found |= await asyncio.to_thread(of_files, self._files)
        gauge = self._metrics.certificate_expiry_timestamp_seconds
        gauge.clear()
        for label, dates in found.items():
            gauge.set((label,), dates.ends.timestamp())
        if (shown := self._ends()) is not None:
            gauge.set((HTTP,), shown.timestamp())
