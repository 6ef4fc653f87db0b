"""From checked fields to what is stored of an object, and back to what is shown.

One place for `smsgw apply` and the admin API, so that both mean the same by the same field. What
stands at its default is left out of `spec` where code of before would not know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from ipaddress import ip_network
from typing import Any

from gateway.views import rfc3339
from sms.config import AdminState, OtpCaps, Tenant, default_burst
from sms.ids import to_text
from sms.templates import names_in
from store.attempts import PREFIX as ATTEMPT
from store.attempts import Attempt, Standing
from store.objects import StoredObject, public_spec

Json = dict[str, Any]
_DEFAULT = Tenant(0, "")
BY_REQUEST = "request"  # why an endpoint is disabled, when somebody asked for it
_MORE_LIMITS = ("segments_per_day", "segments_per_month", "classes", "bursts")


def tenant_spec(good: Mapping[str, Any], limits: Mapping[str, Any]) -> Json:
    """A tenant from nothing: what is not given has its default."""
    rate = limits.get("segments_per_second", _DEFAULT.segments_per_second)
    spec: Json = {
        "signatures": good.get("signatures", []),
        "countries": good.get("countries", list(_DEFAULT.countries)),
        "segments_per_second": rate,
        "burst_segments": limits.get("burst_segments", default_burst(rate)),
    }
    return changed_tenant(
        spec,
        {
            name: good[name]
            for name in (
                *("allowed_ips", "client_certificates"),
                *("inbound_numbers", "otp_caps", "on_uncertain"),
            )
            if name in good
        },
        {name: limits[name] for name in _MORE_LIMITS if name in limits},
    )


def changed_tenant(
    spec: Mapping[str, Any], good: Mapping[str, Any], limits: Mapping[str, Any]
) -> Json:
    """A tenant with the given fields replaced and everything else as it was."""
    changed = dict(spec)
    for name in ("signatures", "countries", "inbound_numbers", "on_uncertain"):
        if name in good:
            changed[name] = good[name]
    if "allowed_ips" in good:
        changed["allowed_ips"] = [str(ip_network(text)) for text in good["allowed_ips"]]
    if "client_certificates" in good:
        changed["client_certificates"] = [
            text.replace(":", "").lower() for text in good["client_certificates"]
        ]
    if "otp_caps" in good:  # what is not named of it is as it was
        changed["otp_caps"] = {**spec.get("otp_caps", {}), **good["otp_caps"]}
    changed.update(limits)
    if "classes" in limits:
        changed["classes"] = {word: _bucket(one) for word, one in limits["classes"].items()}
    if "bursts" in limits:
        changed["bursts"] = [_burst(one) for one in limits["bursts"]]
    named = ("allowed_ips", "client_certificates", "inbound_numbers", "otp_caps", "on_uncertain")
    for name in (*named, *_MORE_LIMITS):
        if not changed.get(name, True):
            del changed[name]
    return changed


def _bucket(given: Mapping[str, Any]) -> Json:
    rate = given["segments_per_second"]
    return {
        "segments_per_second": rate,
        "burst_segments": given.get("burst_segments", default_burst(rate)),
    }


def _burst(given: Mapping[str, Any]) -> Json:
    times = {
        name: rfc3339(datetime.fromisoformat(given[name]).timestamp())
        for name in ("from", "until")
        if name in given
    }
    return {**times, **_bucket(given)}


def suspended(spec: Mapping[str, Any], *, is_suspended: bool) -> Json:
    """The tenant, suspended or not."""
    changed = {name: value for name, value in spec.items() if name != "is_suspended"}
    return changed | {"is_suspended": True} if is_suspended else changed


def tenant_view(stored: StoredObject) -> Json:
    """A tenant as the API shows it."""
    spec = stored.spec
    return {
        "id": stored.public_id,
        "name": stored.name,
        "suspended": bool(spec.get("is_suspended", False)),
        "signatures": spec.get("signatures", []),
        "countries": spec.get("countries", list(_DEFAULT.countries)),
        "allowed_ips": spec.get("allowed_ips", []),
        "client_certificates": spec.get("client_certificates", []),
        "inbound_numbers": spec.get("inbound_numbers", []),
        "limits": {
            "segments_per_second": spec.get("segments_per_second", _DEFAULT.segments_per_second),
            "burst_segments": spec.get("burst_segments", _DEFAULT.burst_segments),
            "segments_per_day": spec.get("segments_per_day"),
            "segments_per_month": spec.get("segments_per_month"),
            "classes": spec.get("classes", {}),
            "bursts": spec.get("bursts", []),
        },
        "otp_caps": asdict(OtpCaps.of(spec.get("otp_caps", {}))),
        "on_uncertain": spec.get("on_uncertain"),
        "created_at": _moment(stored),
        "version": stored.version,
    }


def key_view(stored: StoredObject, now: float) -> Json:
    """A key as the API shows it: nothing that opens anything. `now` is Unix seconds."""
    spec = stored.spec
    end = spec.get("valid_until")
    status = "active"
    if end is not None:
        status = "retiring" if now < end else "expired"
    return {
        "id": stored.public_id,
        "name": spec["name"],
        "scopes": spec.get("scopes", []),
        "signing": "signing_secret" in stored.secrets,
        "status": status,
        "valid_until": None if end is None else rfc3339(end),
        "created_at": _moment(stored),
        "version": stored.version,
    }


def template_spec(good: Mapping[str, Any], tenant: str) -> Json:
    """A template from nothing; `tenant` by name, "*" = every one's."""
    spec = {"tenant": tenant, "name": good["name"], "class": good["class"]}
    return changed_template({**spec, "twins": {}}, good)


def changed_template(spec: Mapping[str, Any], good: Mapping[str, Any]) -> Json:
    """A template with the given fields replaced and everything else as it was."""
    named = ("text", "twins", "on_uncertain")
    changed = {**spec, **{name: good[name] for name in named if name in good}}
    if not changed.get("on_uncertain"):
        changed.pop("on_uncertain", None)
    names = names_in(changed["text"])
    changed["twins"] = {
        channel: {"code": twin["code"], "order": twin.get("order", names)}
        for channel, twin in changed["twins"].items()
    }
    return changed


def template_view(stored: StoredObject, tenants: Mapping[str, str]) -> Json:
    """A template as the API shows it; `tenants` are ids by name."""
    spec = stored.spec
    return {
        "id": stored.public_id,
        "tenant": tenants.get(spec["tenant"]),
        "name": spec["name"],
        "class": spec["class"],
        "text": spec["text"],
        "variables": names_in(spec["text"]),
        "twins": spec["twins"],
        "on_uncertain": spec.get("on_uncertain"),
        "created_at": _moment(stored),
        "version": stored.version,
    }


def endpoint_name(tenant: str, url: str) -> str:
    """By which name a webhook endpoint is kept; a tenant has one of each URL."""
    return f"{tenant} {url}"


def endpoint_spec(good: Mapping[str, Any], tenant: str, disabled: str | None = None) -> Json:
    """A webhook endpoint from checked fields; `tenant` by name.

    `disabled`: why it is now; it stays so until the fields say otherwise.
    """
    spec = {
        "tenant": tenant,
        "url": good["url"],
        "events": good.get("events", ["message.*"]),
        "batch": good.get("batch", False),
        "full_number": good.get("full_number", False),
    }
    is_enabled = good.get("enabled", disabled is None)
    return spec if is_enabled else spec | {"disabled": disabled or BY_REQUEST}


def endpoint_view(
    stored: StoredObject, tenant: str, health: Standing | None, now: float, *, is_own: bool
) -> Json:
    """A webhook endpoint as the API shows it; `tenant` by id, `now` in Unix seconds.

    `is_own`: to the tenant itself, which sees its URL whole: it may carry a secret.
    """
    spec = stored.spec if is_own else public_spec(stored)
    known = health or Standing(None, None, None)
    ends = [end for end in stored.secrets.get("ends", ()) if end is not None and end > now]
    return {
        "id": stored.public_id,
        "tenant": tenant,
        "url": spec["url"],
        "events": spec.get("events", ["message.*"]),
        "batch": spec.get("batch", False),
        "full_number": spec.get("full_number", False),
        "enabled": "disabled" not in spec,
        "disabled_reason": spec.get("disabled"),
        "failing_since": _time(known.failing_since),
        "last_delivered_at": _time(known.delivered_at),
        "previous_secret_until": _time(max(ends, default=None)),
        "created_at": _moment(stored),
        "version": stored.version,
    }


def attempt_view(one: Attempt) -> Json:
    """One request to a webhook endpoint as the API shows it."""
    is_test = not one.tries
    outcome = "failed" if one.next_at is not None or is_test else "given_up"
    outcome = {"webhook.delivered": "delivered", "webhook.gone": "gone"}.get(one.code, outcome)
    text = one.answer.decode("utf-8", "replace")
    return {
        "id": to_text(ATTEMPT, one.id),
        "event_id": None if one.is_batch else to_text("evt", one.event_ids[0]),
        "event_ids": [to_text("evt", event_id) for event_id in one.event_ids],
        "at": rfc3339(one.at),
        "outcome": outcome,
        "code": one.code,
        "status": one.status,
        "ms": one.ms,
        "try": one.tries or 1,
        "test": is_test,
        "answer": "".join(char if char.isprintable() else " " for char in text) or None,
        "next_try_at": _time(one.next_at),
    }


def in_state(spec: Mapping[str, Any], state: AdminState) -> Json:
    """The channel, active, paused or draining."""
    changed = {name: value for name, value in spec.items() if name != "admin_state"}
    return changed if state is AdminState.ACTIVE else changed | {"admin_state": str(state)}


# Of what is stored of a channel: what no file says, or says in another place.
_NOT_SAID = ("settings", "demands_template")


def channel_entry(stored: StoredObject) -> Json:
    """A channel as a file would say it, secrets open: to be changed and checked again."""
    spec = stored.spec
    every = {name: spec[name] for name in spec if name not in _NOT_SAID and spec[name] is not None}
    return {"name": stored.name, **spec.get("settings", {}), **stored.secrets, **every}


def channel_view(stored: StoredObject) -> Json:
    """A channel as the API shows it; of its secrets only which there are."""
    every = {name: value for name, value in stored.spec.items() if name not in _NOT_SAID}
    return {
        "id": stored.public_id,
        "name": stored.name,
        "admin_state": str(AdminState.ACTIVE),
        **every,
        "settings": stored.spec.get("settings", {}),
        "secrets": sorted(stored.secrets),
        "created_at": _moment(stored),
        "version": stored.version,
    }


def route_view(
    stored: StoredObject, tenants: Mapping[str, str], channels: Mapping[str, str]
) -> Json:
    """A route as the API shows it: names as a file has them, and ids, which are given by name."""
    spec = stored.spec
    return {
        "id": stored.public_id,
        "tenant": spec["tenant"],
        "tenant_id": tenants.get(spec["tenant"]),
        "class": spec["class"],
        "carrier": spec["carrier"],
        "country": spec["country"] or "*",
        "channels": spec["channels"],
        "channel_ids": [channels.get(name) for name in spec["channels"]],
        "weights": _padded(spec["weights"], len(spec["channels"])) if "weights" in spec else None,
        "created_at": _moment(stored),
        "version": stored.version,
    }


def _time(unix_s: float | None) -> str | None:
    return None if unix_s is None else rfc3339(unix_s)


def canary_view(
    stored: StoredObject,
    routes: Mapping[str, str],
    channels: Mapping[str, str],
    gate: Mapping[str, Any],
) -> Json:
    """A canary as the API shows it; what was deleted after its end has no id any more.

    `gate`: the last one's figures, empty before the first.
    """
    spec = stored.spec
    return {
        "id": stored.public_id,
        "name": stored.name,
        "route": spec["route"],
        "route_id": routes.get(spec["route"]),
        "channels": spec["channels"],
        "channel_ids": [channels.get(name) for name in spec["channels"]],
        "baseline": spec["baseline"],
        "steps": spec["steps"],
        "share": spec["share"],
        "state": spec["state"],
        "since": spec["since"],
        "reason": spec.get("reason"),
        "gates": spec["gates"],
        "last_gate": gate or None,
        "created_at": _moment(stored),
        "version": stored.version,
    }


def _padded(weights: list[int], length: int) -> list[int]:
    return weights + [0] * (length - len(weights))


def _moment(stored: StoredObject) -> str | None:
    return None if stored.created_at is None else rfc3339(stored.created_at.timestamp())
