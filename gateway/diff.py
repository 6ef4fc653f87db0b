"""A plan as lines for a person and as objects for a script; secrets are named, never shown.

+ tenant shop                 made        - API key shop/old      revoked
    countries   86, 1                     ± API key shop/web      another key takes its place
~ channel mobile-a            changed         key: to be made and shown once
    window      64 → 65
    password: changed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gateway.plan import Action, Plan, Planned, called
from store.objects import StoredObject, public_spec, shown_name

SIGNS = {Action.CREATE: "+", Action.CHANGE: "~", Action.REPLACE: "±", Action.REVOKE: "-"}
STYLES = {"+": "green", "~": "yellow", "±": "yellow", "-": "red"}
_TOLD = {Action.REPLACE: "  another key takes its place", Action.REVOKE: "  revoked, for good"}


class Line(NamedTuple):
    """One line of the diff; `sign` "" = it belongs to the object above."""

    sign: str
    text: str


class Change(NamedTuple):
    """One field that is another afterwards; None = absent."""

    pointer: str
    before: object
    after: object


def lines(plan: Plan) -> Iterator[Line]:
    """The plan for a terminal."""
    for one in plan.changes:
        kind = one.wanted.kind
        name = _name(one)
        yield Line(SIGNS[one.action], f"{called(kind, name)}{_TOLD.get(one.action, '')}")
        for change in fields(one):
            yield Line("", f"{change.pointer[1:].replace('/', '.'):<22} {_shown(change)}")
        for secret in one.secrets:
            yield Line("", secret)
    kept = len(plan.objects) - len(plan.changes)
    if not plan.changes:
        yield Line("", "unchanged")
    elif kept:
        yield Line("", f"{kept} more stay as they are")


def documents(plan: Plan) -> Iterator[dict[str, Any]]:
    """The plan for a script, one object a change."""
    for one in plan.changes:
        yield {
            "action": one.action.value,
            "kind": one.wanted.kind,
            "name": _name(one),
            "fields": [change._asdict() for change in fields(one)],
            "secrets": one.secrets,
        }


def fields(one: Planned) -> list[Change]:
    """What differs, field by field; of an object that is made everything it says."""
    if one.action is Action.REVOKE:
        return []
    before = {} if one.standing is None else _flat(_public(one.standing))
    after = _flat(_public(_future(one)))
    return [
        Change(pointer, before.get(pointer), after.get(pointer))
        for pointer in sorted({*before, *after})
        if before.get(pointer) != after.get(pointer)
    ]


def _future(one: Planned) -> StoredObject:
    wanted = one.wanted
    return StoredObject(0, 0, wanted.spec, {}, wanted.kind, wanted.name)


def _public(stored: StoredObject) -> dict[str, Any]:
    spec = public_spec(stored)
    if stored.kind == "route":
        spec["country"] = spec["country"] or "*"  # as a file says it
    return spec


def _name(one: Planned) -> str:
    return shown_name(_future(one))


def _flat(value: Mapping[str, Any], pointer: str = "") -> dict[str, object]:
    """Members by RFC 6901 pointer; a list of words is one value, what is empty is none."""
    found: dict[str, object] = {}
    for name, inner in value.items():
        at = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
        if isinstance(inner, Mapping):
            found.update(_flat(inner, at))
        elif isinstance(inner, list) and any(isinstance(entry, Mapping) for entry in inner):
            found.update(_flat({str(index): entry for index, entry in enumerate(inner)}, at))
        elif inner is not None and inner not in ([], ""):
            found[at] = inner
    return found


def _shown(change: Change) -> str:
    before, after = (_word(value) for value in (change.before, change.after))
    if change.before is None:
        return after
    return f"{before} → {after}"


def _word(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(str(entry) for entry in value)
    return str(value)
