"""Ten thousand tenants and two hundred channels: a configuration for measuring, not for sending.

Each tenant has its own key, route and webhook endpoint; the channels are accounts at one more
simulated carrier, which takes any. Written through the configuration's own store.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.api.auth import hash_secret, new_key, new_key_id, parse_key
from store.objects import Upsert

LIMIT = 1_000_000
ROUTE_CHANNELS = 4
PASSWORD = "crowd"  # noqa: S105 - the carrier takes any


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many there are, and whom they talk to."""

    tenants: int
    channels: int
    port: int  # of the carrier that takes them all
    sink_url: str
    webhook_secret: bytes


def channel_name(number: int) -> str:
    """The name of one of the many channels."""
    return f"crowd-{number:04d}"


def tenant_name(number: int) -> str:
    """The name of one of the many tenants."""
    return f"crowd-{number:05d}"


def channels(crowd: Crowd) -> Iterator[Upsert]:
    """Every channel an account of its own, with one session."""
    for number in range(crowd.channels):
        name = channel_name(number)
        settings = {"host": "127.0.0.1", "port": crowd.port, "system_id": name, "bind": "trx"}
        yield Upsert(
            "channel",
            name,
            {
                "protocol": "smpp",
                "settings": settings,
                "sessions": 1,
                "window": 64,
                "segments_per_second": LIMIT,
                "classes": ["marketing", "otp", "transactional"],
            },
            {"password": PASSWORD},
        )


def tenants(crowd: Crowd, pepper: bytes) -> Iterator[tuple[str, list[Upsert]]]:
    """(key, the objects of one tenant)."""
    secrets = {"secrets": [base64.b64encode(crowd.webhook_secret).decode()]}
    for number in range(crowd.tenants):
        name = tenant_name(number)
        text, _ = new_key(pepper, new_key_id())
        key = parse_key(text.encode())
        if key is None:
            raise RuntimeError("a new key does not parse")
        first = number * ROUTE_CHANNELS
        ring = [channel_name((first + n) % crowd.channels) for n in range(ROUTE_CHANNELS)]
        tenant = {
            "signatures": [f"商户{number}"],
            "countries": [86, 1],
            "segments_per_second": LIMIT,
            "burst_segments": LIMIT,
            "otp_caps": {"prefix_burst": 0},  # numbers follow one another
        }
        api_key = {"tenant": name, "name": "own", "scopes": ["read", "send"], "key_id": key.id}
        route = {"tenant": name, "class": "*", "carrier": "*", "country": 0, "channels": ring}
        endpoint = {
            "tenant": name,
            "url": crowd.sink_url,
            "events": ["message.delivered"],
            "batch": True,
            "full_number": False,
        }
        hashed = {"secret_hash": hash_secret(pepper, key.secret).hex()}
        yield (
            text,
            [
                Upsert("tenant", name, tenant, {}),
                Upsert("api_key", f"{name}/own", api_key, hashed),
                Upsert("route", f"{name}/*/*/*", route, {}),
                Upsert("webhook_endpoint", f"{name} {crowd.sink_url}", endpoint, secrets),
            ],
        )
