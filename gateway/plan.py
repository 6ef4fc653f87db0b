"""What a configuration file would change, and making it so.

    file ─▶ checked as a whole ─┬─▶ complaints, all of them: nothing was changed
                                └─▶ Plan ─┬─▶ shown (`--dry-run` ends here)
                                          └─▶ secrets made ─▶ one transaction

It adds and changes; what the file does not name stays as it is, and a key ends only where the
file says `revoked: true`. Planning makes nothing, neither keys nor files.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

from gateway.api.auth import hash_secret, new_key, new_key_id, parse_key
from gateway.api.signing import new_signing_secret
from gateway.document import ObjectKey, Surroundings, Wanted, check_document
from gateway.yamlfile import Complaint
from store.audit import Author
from store.durable import write_once
from store.objects import Removal, StoredObject, Upsert
from store.seal import Keyring
from webhooks.sign import new_secret

_WORDS = {
    "tenant": "tenant",
    "api_key": "API key",
    "channel": "channel",
    "route": "route",
    "webhook_endpoint": "webhook endpoint",
    "template": "template",
}


class StorePort(Protocol):
    """What applying needs of `store.config.ConfigStore`."""

    async def standing(self) -> tuple[int, Mapping[ObjectKey, StoredObject]]:
        """The version, and every object in force, secrets open."""
        ...

    async def revoked_key_ids(self) -> frozenset[int]:
        """Ids of keys that may not come back."""
        ...

    async def apply(
        self, writes: Sequence[Upsert | Removal], author: Author, based_on: int | None = None
    ) -> int:
        """Write all or nothing; the new version."""
        ...


class Action(StrEnum):
    """What becomes of an object."""

    CREATE = "create"
    CHANGE = "change"
    REPLACE = "replace"  # a key by another one: the one before is revoked
    REVOKE = "revoke"
    KEEP = "keep"


@dataclass(slots=True)
class Planned:
    """One object: as it stands, as it shall be, and what of its secrets changes."""

    action: Action
    wanted: Wanted
    standing: StoredObject | None
    secrets: list[str] = field(default_factory=list)  # in words: "signing secret: to be made"

    @property
    def key(self) -> ObjectKey:
        """Kind and name."""
        return self.wanted.kind, self.wanted.name


@dataclass(slots=True)
class Plan:
    """Everything that a file would do, in order, and the version it was compared with."""

    version: int
    objects: list[Planned]
    notes: list[str]  # what an operator should not overlook

    @property
    def changes(self) -> list[Planned]:
        """Without what stays as it is."""
        return [one for one in self.objects if one.action is not Action.KEEP]


@dataclass(slots=True)
class Applied:
    """What a file did. `shown` are secrets that were made: (whose, secret), never to be seen again.

    Names are `(kind, name)`.
    """

    version: int
    made: list[ObjectKey] = field(default_factory=list)
    changed: list[ObjectKey] = field(default_factory=list)
    revoked: list[ObjectKey] = field(default_factory=list)
    unchanged: list[ObjectKey] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shown: list[tuple[str, str]] = field(default_factory=list, repr=False)
    callbacks: list[tuple[str, str, str]] = field(default_factory=list)  # channel, kind, address


async def make_plan(
    text: str, around: Surroundings, store: StorePort, keyring: Keyring
) -> Plan | list[Complaint]:
    """Compare a file with what stands, or return all that is wrong with it.

    Of `around` what is known and revoked is read from the store here.
    """
    version, current = await store.standing()
    known = {key: stored.spec for key, stored in current.items()}
    revoked = await store.revoked_key_ids()
    place = replace(around, known=known, revoked=revoked)
    wanted, complaints = check_document(text, place)
    if complaints:
        return complaints
    objects = [_compare(one, current.get((one.kind, one.name)), keyring) for one in wanted]
    notes = [note for one in objects for note in _notes(one)]
    return Plan(version, objects, notes)


async def carry_out(
    plan: Plan, store: StorePort, keyring: Keyring, author: Author
) -> Applied | list[Complaint]:
    """Make the secrets that are missing and write everything in one transaction.

    Key files are written before the commit: a key whose file is lost could never be used, a
    file whose key is not stored is simply read by the next run. Raises ConfigMovedError when
    something was changed since the plan was made.
    """
    applied = Applied(plan.version, notes=plan.notes)
    writes: list[Upsert | Removal] = []
    lists = {
        Action.CREATE: applied.made,
        Action.CHANGE: applied.changed,
        Action.REPLACE: applied.changed,
        Action.REVOKE: applied.revoked,
        Action.KEEP: applied.unchanged,
    }
    for one in plan.objects:
        lists[one.action].append(one.key)
        if one.action is Action.KEEP:
            continue
        wanted = one.wanted
        if one.action in (Action.REVOKE, Action.REPLACE):
            writes.append(Removal(wanted.kind, wanted.name))
        if one.action is not Action.REVOKE:
            problem = _complete(one, keyring, applied)
            if problem is not None:
                return [problem]
            writes.append(Upsert(wanted.kind, wanted.name, wanted.spec, wanted.secrets))
    applied.version = await store.apply(writes, author, plan.version)
    return applied


def called(kind: str, name: str) -> str:
    """An object as a person calls it."""
    if kind == "api_key" and name.startswith("/"):
        return f"admin key {name[1:]}"
    return f"{_WORDS[kind]} {name}"


# ---- comparing ----


def _compare(wanted: Wanted, standing: StoredObject | None, keyring: Keyring) -> Planned:
    if wanted.kind == "api_key":
        return _compare_key(wanted, standing, keyring)
    secrets: list[str] = []
    if wanted.kind == "webhook_endpoint":
        given = [base64.b64encode(raw).decode("ascii") for raw in wanted.secrets.get("secrets", [])]
        wanted.secrets = {"secrets": given}
        if standing is not None and (
            wanted.is_secret_open if not given else given == standing.secrets.get("secrets", [])[:1]
        ):  # the same newest one: what it was rotated from signs as long as it would
            wanted.secrets = dict(standing.secrets)
        elif not given:
            secrets.append(_to_be_made("secret", wanted.make_in))
    if standing is None:
        secrets = secrets or [f"{name}: given" for name in wanted.secrets]
        return Planned(Action.CREATE, wanted, None, secrets)
    if not secrets:
        secrets = _changed(standing.secrets, wanted.secrets)
    is_same = not secrets and standing.spec == wanted.spec
    return Planned(Action.KEEP if is_same else Action.CHANGE, wanted, standing, secrets)


def _compare_key(wanted: Wanted, standing: StoredObject | None, keyring: Keyring) -> Planned:
    if wanted.is_revoked:
        return Planned(Action.REVOKE if standing else Action.KEEP, wanted, standing)
    key, secrets = wanted.key, []
    is_same_key = False
    if key is None and wanted.is_secret_open and standing is not None:
        is_same_key = True
        wanted.secrets["secret_hash"] = standing.secrets["secret_hash"]
        wanted.spec["key_id"] = standing.spec["key_id"]
    elif key is None:
        secrets.append(_to_be_made("key", wanted.make_in))
    else:
        wanted.secrets["secret_hash"] = hash_secret(keyring.pepper, key.secret).hex()
        wanted.spec["key_id"] = key.id
        is_same_key = standing is not None and standing.spec["key_id"] == key.id
    before = None if standing is None else standing.secrets.get("signing_secret")
    if wanted.signing is None:  # what the file does not say stays, a new key signs nothing
        wanted.signing = before is not None
    signing = wanted.signing_secret
    if wanted.signing and isinstance(signing, Path):
        secrets.append(_to_be_made("signing_secret", signing))
    elif wanted.signing and (signing or (before and is_same_key)):
        wanted.secrets["signing_secret"] = signing or before
    elif wanted.signing:
        secrets.append(_to_be_made("signing_secret", None))
    if standing is None:
        return Planned(Action.CREATE, wanted, None, secrets or ["key: given"])
    if not is_same_key:
        return Planned(Action.REPLACE, wanted, standing, secrets or ["key: given, another one"])
    secrets += [
        word for word in _changed(standing.secrets, wanted.secrets)
        if not any(made.startswith(word.partition(":")[0]) for made in secrets)
    ]  # fmt: skip
    is_same = not secrets and standing.spec == wanted.spec
    return Planned(Action.KEEP if is_same else Action.CHANGE, wanted, standing, secrets)


def _to_be_made(name: str, path: Path | None) -> str:
    where = "shown once" if path is None else f"written to {os.path.normpath(path)}"
    return f"{name}: to be made and {where}"


def _changed(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    words = []
    for name in sorted({*before, *after}):
        if name not in after:
            words.append(f"{name}: removed")
        elif name not in before:
            words.append(f"{name}: given")
        elif before[name] != after[name]:
            words.append(f"{name}: changed")
    return words


def _notes(one: Planned) -> list[str]:
    """What moves traffic, or stops it, that the file's author may not think of."""
    wanted, standing = one.wanted, one.standing
    if one.action is Action.REPLACE:
        return [f"NOTE: {called(*one.key)} becomes another key; the one before stops working"]
    if one.action is not Action.CHANGE or standing is None:
        return []
    asked = [spec.get("client_certificates", []) for spec in (standing.spec, wanted.spec)]
    if wanted.kind == "tenant" and asked[0] != asked[1]:
        what = f"one of {len(asked[1])} certificates" if asked[1] else "no certificate"
        return [f"NOTE: keys of {called(*one.key)} now need {what}"]
    if wanted.kind == "tenant" and standing.spec.get("allowed_ips") != wanted.spec.get(
        "allowed_ips"
    ):
        where = ", ".join(wanted.spec.get("allowed_ips", [])) or "everywhere"
        return [f"NOTE: keys of {called(*one.key)} now work from {where}"]
    if wanted.kind != "route" or wanted.spec["tenant"] != "*":
        return []
    before, after = _channels_said(standing.spec), _channels_said(wanted.spec)
    narrower = [
        f"{word} {wanted.spec[word]}"
        for word in ("class", "carrier", "country")
        if wanted.spec[word] not in ("*", 0)
    ]
    whose = f"all tenants{' (' + ', '.join(narrower) + ')' if narrower else ''}"
    return [f"NOTE: the route of {whose} now leads to {after}; before: {before}"]


def _channels_said(spec: Mapping[str, Any]) -> str:
    """A route's channels, each with its weight where it has one."""
    said = [
        f"{channel} ({weight})" if weight else channel
        for channel, weight in zip_longest(spec["channels"], spec.get("weights", ()))
    ]
    return ", ".join(said)


# ---- making ----


def _complete(one: Planned, keyring: Keyring, applied: Applied) -> Complaint | None:
    """Give the object the secrets that only exist from now on."""
    if one.wanted.kind == "api_key":
        return _complete_key(one.wanted, keyring, applied)
    if one.wanted.kind == "webhook_endpoint":
        return _complete_endpoint(one.wanted, applied)
    return None


def _complete_key(wanted: Wanted, keyring: Keyring, applied: Applied) -> Complaint | None:
    whose = called(wanted.kind, wanted.name)
    if "secret_hash" not in wanted.secrets:
        text, _ = new_key(keyring.pepper, new_key_id())
        problem = _hand_over(whose, text, wanted.make_in, applied)
        if problem is not None:
            return problem
        key = parse_key(text.encode())
        if key is None:
            raise RuntimeError("a new key does not parse")
        wanted.spec["key_id"] = key.id
        wanted.secrets["secret_hash"] = hash_secret(keyring.pepper, key.secret).hex()
    if wanted.signing and "signing_secret" not in wanted.secrets:
        text = wanted.secrets["signing_secret"] = new_signing_secret()
        path = wanted.signing_secret
        return _hand_over(
            f"signing secret of {whose}", text, path if isinstance(path, Path) else None, applied
        )
    return None


def _complete_endpoint(wanted: Wanted, applied: Applied) -> Complaint | None:
    if wanted.secrets["secrets"]:
        return None
    text, raw = new_secret()
    wanted.secrets = {"secrets": [base64.b64encode(raw).decode("ascii")]}
    return _hand_over(f"webhook secret of {wanted.name}", text, wanted.make_in, applied)


def _hand_over(whose: str, text: str, path: Path | None, applied: Applied) -> Complaint | None:
    """Put a new secret into its file (0600, never overwriting one), or among what is shown."""
    if path is None:
        applied.shown.append((whose, text))
        return None
    try:
        write_once(path, f"{text}\n".encode("ascii"))
    except OSError as error:
        path = Path(os.path.normpath(path))
        detail = f"secret_file {path} cannot be made ({error.strerror}); correct the path"
        return Complaint(1, "", detail)
    applied.files.append(path)
    return None
