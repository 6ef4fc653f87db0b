"""From stored objects to the objects that run: references by name become ids.

What did not change since the last time is not made again, and the event loop is let go in
between: one key more among ten thousand tenants must not stop the traffic.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from ipaddress import ip_network
from typing import Any

import asyncpg

from sms.config import (
    AdminState,
    ApiKey,
    Burst,
    Canary,
    CanaryState,
    Channel,
    ClassLimit,
    OtpCaps,
    Route,
    Snapshot,
    Tenant,
    WebhookEndpoint,
    encodings_of,
)
from sms.errors import ConfigError
from sms.model import Carrier, Encoding, MessageClass, OnUncertain, UncertainPolicy
from sms.templates import Template, Twin
from store.objects import KINDS, StoredObject

ANY = "*"
Objects = Mapping[tuple[str, str], StoredObject]
_Running = Tenant | ApiKey | Channel | Route | WebhookEndpoint | Template | Canary
_SLICE = 200  # objects read before the event loop is let go, some 3 ms
_NAMED = frozenset({"tenant", "channel"})  # whose ids stand in other objects
_TENANT_FIELDS = frozenset(one.name for one in fields(Tenant)) - {"id", "name"}
_CHANNEL_FIELDS = frozenset(one.name for one in fields(Channel)) - {"id", "name"}


# What a channel can do, stored as lists.
_SETS: Mapping[str, Callable[[Any], object]] = {
    "classes": MessageClass,
    "carriers": Carrier,
    "countries": int,
    "encodings": Encoding,
}


class Loaded:
    """One version as it was read: the stored objects, and beside each the one that runs."""

    def __init__(self, version: int = 0) -> None:
        self.version = version
        self._objects: dict[tuple[str, str], StoredObject] = {}
        self._names: dict[tuple[str, int], str] = {}  # by kind and id
        self._running: dict[str, dict[str, _Running]] = {kind: {} for kind in KINDS}

    async def with_rows(
        self,
        version: int,
        rows: Sequence[asyncpg.Record],
        open_row: Callable[[asyncpg.Record], StoredObject],
    ) -> Loaded:
        """The next version: these rows changed, deleted ones first. Raises ConfigError."""
        made = Loaded(version)
        made._objects = self._objects.copy()
        made._names = self._names.copy()
        made._running = {kind: named.copy() for kind, named in self._running.items()}
        changed: list[tuple[str, str]] = []
        has_moved = False
        for row in rows:  # out first: a name may be another's in the same version
            name = made._names.get((row["kind"], row["id"]))
            if name is not None and (row["deleted_at"] is not None or name != row["name"]):
                made._forget(row["kind"], row["id"])
                has_moved |= row["kind"] in _NAMED
        for place, row in enumerate(rows):
            if row["deleted_at"] is None:
                key = row["kind"], row["name"]
                made._objects[key] = open_row(row)
                made._names[row["kind"], row["id"]] = row["name"]
                changed.append(key)
            await _let_go(place)
        # Another object of that name: everything that names it must be made again.
        for place, key in enumerate(list(made._objects) if has_moved else changed):
            made._run(key)
            await _let_go(place)
        return made

    def _forget(self, kind: str, number: int) -> None:
        name = self._names.pop((kind, number))
        del self._objects[kind, name]
        self._running.get(kind, {}).pop(name, None)

    def _run(self, key: tuple[str, str]) -> None:
        make = _MAKE.get(key[0])
        running = None if make is None else make(self._objects[key], self._objects)
        if running is None:
            self._running.get(key[0], {}).pop(key[1], None)
        else:
            self._running[key[0]][key[1]] = running

    def snapshot(self) -> Snapshot:
        """The objects that run; what did not change is the same object as in the last one."""
        tenants, keys, channels, routes, endpoints, templates, canaries = (
            self._running[kind].values() for kind in KINDS
        )
        return Snapshot(
            version=self.version,
            tenants={one.id: one for one in tenants if isinstance(one, Tenant)},
            api_keys={one.id: one for one in keys if isinstance(one, ApiKey)},
            channels={one.id: one for one in channels if isinstance(one, Channel)},
            routes=tuple(one for one in routes if isinstance(one, Route)),
            endpoints={one.id: one for one in endpoints if isinstance(one, WebhookEndpoint)},
            templates={one.id: one for one in templates if isinstance(one, Template)},
            canaries=tuple(one for one in canaries if isinstance(one, Canary)),
        )


async def _let_go(place: int) -> None:
    if place % _SLICE == _SLICE - 1:
        await asyncio.sleep(0)


def _id_of(kind: str, name: str, objects: Objects, user: str) -> int:
    stored = objects.get((kind, name))
    if stored is None:
        raise ConfigError(f"{user} names the {kind} {name!r}, which does not exist: apply it too")
    return stored.id


def _tenant(stored: StoredObject, _: Objects) -> Tenant:
    # A newer version beside us may have written fields that we do not know.
    spec = {name: value for name, value in stored.spec.items() if name in _TENANT_FIELDS}
    for key in ("signatures", "countries", "inbound_numbers", "client_certificates"):
        if key in spec:
            spec[key] = tuple(spec[key])
    if "allowed_ips" in spec:
        spec["allowed_ips"] = tuple(ip_network(text) for text in spec["allowed_ips"])
    if "on_uncertain" in spec:
        spec["on_uncertain"] = UncertainPolicy(spec["on_uncertain"])
    classes = stored.spec.get("classes", {})
    spec["class_limits"] = tuple(ClassLimit.of(word, classes[word]) for word in sorted(classes))
    spec["bursts"] = tuple(Burst.of(burst) for burst in spec.get("bursts", ()))
    spec["otp_caps"] = OtpCaps.of(
        {
            name: value
            for name, value in spec.get("otp_caps", {}).items()
            if name in OtpCaps.__slots__
        }
    )
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
    # A newer version beside us may have written fields that we do not know.
    spec = {name: value for name, value in stored.spec.items() if name in _CHANNEL_FIELDS}
    spec["settings"] = {**spec.get("settings", {}), **stored.secrets}
    for name, make in _SETS.items():
        if name in spec:
            spec[name] = frozenset(map(make, spec[name]))
    spec.setdefault("encodings", encodings_of(spec["protocol"]))
    if "price_per_segment" in spec:
        spec["price_per_segment"] = Decimal(spec["price_per_segment"])
    spec["admin_state"] = AdminState(spec.get("admin_state", AdminState.ACTIVE))
    spec["adds_signature"] = stored.spec.get("signature_by") == "carrier"
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
        weights=tuple(spec.get("weights", ())),
    )


def endpoint_of(stored: StoredObject, tenant: int) -> WebhookEndpoint:
    """A webhook endpoint as it runs; `tenant` by id."""
    spec = stored.spec
    return WebhookEndpoint(
        id=stored.id,
        tenant=tenant,
        url=spec["url"],
        events=tuple(spec.get("events", ("message.*",))),
        batch=bool(spec.get("batch", False)),
        full_number=bool(spec.get("full_number", False)),
        secrets=tuple(base64.b64decode(text) for text in stored.secrets.get("secrets", ())),
        ends=tuple(math.inf if end is None else end for end in stored.secrets.get("ends", ())),
        is_disabled="disabled" in spec,
    )


def _endpoint(stored: StoredObject, objects: Objects) -> WebhookEndpoint:
    spec = stored.spec
    user = f"webhook endpoint {spec['url']}"
    return endpoint_of(stored, _id_of("tenant", spec["tenant"], objects, user))


def _template(stored: StoredObject, objects: Objects) -> Template:
    spec = stored.spec
    user = f"template {stored.name}"
    owner = spec["tenant"]
    return Template(
        id=stored.id,
        name=spec["name"],
        tenant=0 if owner == ANY else _id_of("tenant", owner, objects, user),
        message_class=MessageClass(spec["class"]),
        text=spec["text"],
        twins={
            _id_of("channel", word, objects, user): Twin(twin["code"], tuple(twin["order"]))
            for word, twin in spec.get("twins", {}).items()
        },
        on_uncertain=OnUncertain(spec["on_uncertain"]) if "on_uncertain" in spec else None,
    )


def _canary(stored: StoredObject, objects: Objects) -> Canary | None:
    """None for one that is over, or will be at its next gate: what it names may be gone."""
    spec = stored.spec
    state = CanaryState(spec["state"])
    names = [("route", spec["route"]), *(("channel", name) for name in spec["channels"])]
    if not state.is_live or any(name not in objects for name in names):
        return None
    user = f"canary {stored.name}"
    return Canary(
        id=stored.id,
        name=stored.name,
        route=_id_of("route", spec["route"], objects, user),
        channels=tuple(_id_of("channel", word, objects, user) for word in spec["channels"]),
        share=int(spec["share"]),
        state=state,
        since=datetime.fromisoformat(spec["since"]).timestamp(),
    )


_MAKE: Mapping[str, Callable[[StoredObject, Objects], _Running | None]] = {
    "tenant": _tenant,
    "api_key": _api_key,
    "channel": _channel,
    "route": _route,
    "webhook_endpoint": _endpoint,
    "template": _template,
    "canary": _canary,
}
