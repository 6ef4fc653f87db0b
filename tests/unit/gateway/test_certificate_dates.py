from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway import certificate_dates
from gateway.settings import Settings
from sms import config
from telemetry.metrics import Metrics
from tests.support.certificates import Authority

AUTHORITY = Authority()


def days_left(ends):
    return round((ends - datetime.now(UTC)) / timedelta(days=1))


def test_of_a_chain_the_first_to_end_counts_and_of_authorities_the_last():
    pem = (AUTHORITY.issue("a", days=40).cert + AUTHORITY.issue("b", days=3).cert).encode()
    assert days_left(certificate_dates.dates_of(pem, "client").ends) == 3
    assert days_left(certificate_dates.dates_of(pem, "ca").ends) == 40
    with pytest.raises(ValueError, match=r"(?i)pem|certificate"):
        certificate_dates.dates_of(b"nothing")


def test_files_are_those_that_the_addresses_name():
    settings = Settings(
        database_url="postgresql://h/d?sslmode=verify-full&sslrootcert=/a.pem&sslcert=/b%20c.pem",
        redis_url="rediss://h/0?ssl_ca_certs=/c.pem",
        tls_cert_file=Path("/t.pem"),
        tls_key_file=Path("/t.pem"),
        tls_client_ca_file=Path("/d.pem"),
    )
    found = {label: str(path) for label, path in certificate_dates.files_of(settings).items()}
    assert found == {
        "http:ca": "/d.pem",
        "database:ca": "/a.pem",
        "database:client": "/b c.pem",
        "valkey:ca": "/c.pem",
    }
    assert certificate_dates.files_of(Settings()) == {}


def test_the_gauge_has_every_certificate_in_use_and_none_that_is_not(tmp_path):
    """A channel that is gone takes its own along; a file that cannot be read shows nothing."""
    authority, none = tmp_path / "ca.pem", tmp_path / "none.pem"
    authority.write_text(AUTHORITY.cert, "ascii")
    metrics, shown = Metrics(), datetime.now(UTC)
    settings = Settings(
        database_url=f"postgresql://h/d?sslrootcert={authority}&sslcert={none}",
    )
    gauge = certificate_dates.ExpiryGauge(settings, metrics, lambda: shown)
    mine = AUTHORITY.issue("us", days=20).cert
    channels = [
        config.Channel(1, "a", "smpp", {"tls": True, "tls_ca": AUTHORITY.cert, "tls_cert": mine}),
        config.Channel(2, "b", "twilio", {"ca": AUTHORITY.cert}),
        config.Channel(3, "c", "smpp", {"tls": True, "tls_ca": "-----BEGIN nothing"}),
    ]
    asyncio.run(gauge.look(channels))
    values = metrics.certificate_expiry_timestamp_seconds.values
    assert {label for (label,) in values} == {
        "http",
        "database:ca",
        "channel:a:ca",
        "channel:a:client",
        "channel:b:ca",
    }
    assert values[("http",)] == shown.timestamp()
    assert days_left(datetime.fromtimestamp(values[("channel:a:client",)], UTC)) == 20
    asyncio.run(gauge.look([]))
    values = metrics.certificate_expiry_timestamp_seconds.values
    assert {label for (label,) in values} == {"http", "database:ca"}
