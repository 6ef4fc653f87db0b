"""From stored objects to the objects that run: references by name become ids.

What did not change since the last time is not made again: with thousands of tenants a changed
limit must not hold a worker's event loop.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from ipaddress import ip_network
from typing import Any, TypeVar

from sms.config import ApiKey, Channel, Route, Snapshot, Tenant, WebhookEndpoint
from sms.errors import ConfigError
from sms.model import Carrier, MessageClass
from store.objects import StoredObject

ANY = "*"
Made = TypeVar("Made")
Objects = Mapping[tuple[str, str], StoredObject]
_TENANT_FIELDS = frozenset(one.name for one in fields(Tenant)) - {"id", "name"}


class Maker:
    """Makes snapshots; remembers each object as long as its version stands."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, int], tuple[int, Any]] = {}

    def forget(self) -> None:
        """Make everything anew: a name may mean another id than before."""
        self._made.clear()

    def snapshot(self, version: int, objects: Objects) -> Snapshot:
        """The whole configuration; raises ConfigError when an object names none that exists."""
        by_kind: dict[str, list[StoredObject]] = {}
        for stored in objects.values():
            by_kind.setdefault(stored.kind, []).append(stored)
        keep: dict[tuple[str, int], tuple[int, Any]] = {}

        def made(kind: str, make: Callable[[StoredObject, Objects], Made]) -> Iterable[Made]:
            for stored in by_kind.get(kind, ()):
                known = self._made.get((kind, stored.id))
                if known is None or known[0] != stored.version:
                    known = stored.version, make(stored, objects)
                keep[kind, stored.id] = known
                yield known[1]

        snapshot = Snapshot(
            version=version,
            tenants={one.id: one for one in made("tenant", _tenant)},
            api_keys={one.id: one for one in made("api_key", _api_key)},
            channels={one.id: one for one in made("channel", _channel)},
            routes=tuple(made("route", _route)),
            endpoints={one.id: one for one in made("webhook_endpoint", _endpoint)},
        )
        self._made = keep
        return snapshot


def _id_of(kind: str, name: str, objects: Objects, user: str) -> int:
    stored = objects.get((kind, name))
    if stored is None:
        raise ConfigError(f"{user} names the {kind} {name!r}, which does not exist: apply it too")
    return stored.id


def _tenant(stored: StoredObject, _: Objects) -> Tenant:
    # A newer version beside us may have written fields that we do not know.
    spec = {name: value for name, value in stored.spec.items() if name in _TENANT_FIELDS}
    for key in ("signatures", "countries"):
        if key in spec:
            spec[key] = tuple(spec[key])
    if "allowed_ips" in spec:
        spec["allowed_ips"] = tuple(ip_network(text) for text in spec["allowed_ips"])
    return Tenant(id=stored.id, name=stored.name, **spec)


def _api_key(stored: StoredObject, objects: Objects) -> ApiKey:
    spec = stored.spec
    owner = spec.get("tenant")
    signing_secret = stored.secrets.get("signing_secret")
    return ApiKey(
        id=spec["key_id"],  # stands inside the key's text, so it was chosen before its row
        name=spec["name"],
        tenant=_id_of("tenant", owner, objects, f"API key {spec['name']}") if owner else 0,
        scopes=frozenset(spec.get("scopes", ())),
        secret_hash=bytes.fromhex(stored.secrets["secret_hash"]),
        valid_until=spec.get("valid_until", math.inf),
        signing_secret=signing_secret.encode() if signing_secret else None,
    )


def _channel(stored: StoredObject, _: Objects) -> Channel:
    spec = dict(stored.spec)
    spec.pop("price_per_segment", None)  # kept for people, used by nothing yet
    spec["settings"] = {**spec.get("settings", {}), **stored.secrets}
    if "classes" in spec:
        spec["classes"] = frozenset(MessageClass(word) for word in spec["classes"])
    return Channel(id=stored.id, name=stored.name, **spec)


def _route(stored: StoredObject, objects: Objects) -> Route:
    spec = stored.spec
    user = f"route {stored.name}"
    tenant, cls, carrier = (spec.get(key, ANY) for key in ("tenant", "class", "carrier"))
    return Route(
        id=stored.id,
        tenant=0 if tenant == ANY else _id_of("tenant", tenant, objects, user),
        message_class=None if cls == ANY else MessageClass(cls),
        carrier=None if carrier == ANY else Carrier(carrier),
        country=int(spec.get("country", 0)),
        channels=tuple(_id_of("channel", word, objects, user) for word in spec["channels"]),
    )


def _endpoint(stored: StoredObject, objects: Objects) -> WebhookEndpoint:
    spec = stored.spec
    return WebhookEndpoint(
        id=stored.id,
        tenant=_id_of("tenant", spec["tenant"], objects, f"webhook endpoint {spec['url']}"),
        url=spec["url"],
        events=tuple(spec.get("events", ("message.*",))),
        batch=bool(spec.get("batch", False)),
        full_number=bool(spec.get("full_number", False)),
        secrets=tuple(base64.b64decode(text) for text in stored.secrets.get("secrets", ())),
    )
