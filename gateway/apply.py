"""`smsgw apply FILE`: one YAML file becomes the configuration in force.

    text ─▶ checked as a whole ─┬─▶ complaints, all of them: nothing was changed
                                └─▶ key files made ─▶ one transaction ─▶ workers see the version

It adds and changes; what the file does not name stays as it is. A second run of the same file
changes nothing. Secrets that had to be made are shown once, in what this returns.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from adapters.smpp.settings import validate as validate_smpp
from gateway import inforce
from gateway.api.auth import hash_secret, new_key, new_key_id, parse_key
from gateway.document import ObjectKey, Surroundings, Validate, Wanted, check_document
from gateway.settings import Settings
from gateway.yamlfile import MAX_BYTES, Complaint
from sms.errors import ConfigError
from store.config import ConfigStore, StoredObject, Upsert
from store.database import open_pool
from store.durable import write_once
from store.seal import Keyring, load_or_create_master_key
from webhooks.address import AllowList
from webhooks.sign import new_secret

PROTOCOLS: Mapping[str, Validate] = {"smpp": validate_smpp}
_ACTOR = "smsgw apply"
_MAX_FILE = MAX_BYTES + 1  # read; one byte too many is told as such
_WORDS = {
    "tenant": "tenant",
    "api_key": "API key",
    "channel": "channel",
    "route": "route",
    "webhook_endpoint": "webhook endpoint",
}


class StorePort(Protocol):
    """What apply needs of `store.config.ConfigStore`."""

    async def current(self) -> Mapping[ObjectKey, StoredObject]:
        """Every object in force, secrets open."""
        ...

    async def apply(self, upserts: Sequence[Upsert], actor: str) -> int:
        """Write all or nothing; the new version."""
        ...

    async def version(self) -> int:
        """The version in force."""
        ...


@dataclass(slots=True)
class Applied:
    """What a file did. `shown` are secrets that were made: (whose, secret), never to be seen again.

    Names are `(kind, name)`.
    """

    version: int
    made: list[ObjectKey] = field(default_factory=list)
    changed: list[ObjectKey] = field(default_factory=list)
    unchanged: list[ObjectKey] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what an operator should not overlook
    shown: list[tuple[str, str]] = field(default_factory=list)


def run(settings: Settings, path: Path) -> int:
    """Apply a file and say what it did; 0, or 2 when the file is wrong and nothing changed."""
    try:
        with path.open("rb") as handle:
            text = handle.read(_MAX_FILE).decode()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path} cannot be read ({cause}); name a YAML file") from None
    result = apply_text(settings, text, path.absolute().parent)
    if isinstance(result, Applied):
        sys.stdout.write(_report(result))
        sys.stdout.flush()
        sys.stdout.write(inforce.wait(settings, result.version, _tell) + "\n")
        return 0
    for complaint in result:
        where = f"{path}:{complaint.line}: {complaint.pointer.removeprefix('/') or 'the file'}"
        sys.stderr.write(f"{where}: {complaint.detail}\n")
    sys.stderr.write(f"{len(result)} to correct; nothing was changed.\n")
    return 2


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def apply_text(settings: Settings, text: str, base_dir: Path) -> Applied | list[Complaint]:
    """Apply the text of a file whose secret files stand under `base_dir`; a new event loop."""
    return asyncio.run(_apply(settings, text, base_dir))


def current(settings: Settings) -> Mapping[ObjectKey, StoredObject]:
    """Every object in force, secrets open; a new event loop."""

    async def look() -> Mapping[ObjectKey, StoredObject]:
        async with _store(settings) as (store, _):
            return await store.current()

    return asyncio.run(look())


async def apply_document(
    text: str,
    base_dir: Path,
    store: StorePort,
    keyring: Keyring,
    allow: AllowList,
    protocols: Mapping[str, Validate] = PROTOCOLS,
) -> Applied | list[Complaint]:
    """Check the file as a whole and put it in force, or return all that is wrong with it.

    Key files are written before the commit: a key whose file is lost could never be used, a
    file whose key is not stored is simply read by the next run.
    """
    current = await store.current()
    known = {key: stored.spec for key, stored in current.items()}
    around = Surroundings(base_dir, known, protocols, allow)
    wanted, complaints = check_document(text, around)
    if complaints:
        return complaints
    applied = Applied(0)
    upserts: list[Upsert] = []
    for one in wanted:
        key = (one.kind, one.name)
        standing = current.get(key)
        problem = _complete(one, standing, keyring, applied)
        if problem is not None:
            return [problem]
        if standing is not None and (standing.spec, standing.secrets) == (one.spec, one.secrets):
            applied.unchanged.append(key)
            continue
        (applied.made if standing is None else applied.changed).append(key)
        applied.notes += _notes(one, standing)
        upserts.append(Upsert(one.kind, one.name, one.spec, one.secrets))
    applied.version = await store.apply(upserts, _ACTOR) if upserts else await store.version()
    return applied


def _notes(one: Wanted, standing: StoredObject | None) -> list[str]:
    """A changed route of every tenant moves traffic that the file's author may not think of."""
    if standing is None or one.kind != "route" or one.spec["tenant"] != "*":
        return []
    before, after = (", ".join(spec["channels"]) for spec in (standing.spec, one.spec))
    where = [
        f"{word} {one.spec[word]}"
        for word in ("class", "carrier", "country")
        if one.spec[word] not in ("*", 0)
    ]
    whose = f"all tenants{' (' + ', '.join(where) + ')' if where else ''}"
    return [f"NOTE: the route of {whose} now leads to {after}; before: {before}"]


def _complete(
    wanted: Wanted, standing: StoredObject | None, keyring: Keyring, applied: Applied
) -> Complaint | None:
    """Give the object the secrets that only exist from now on."""
    if wanted.kind == "api_key":
        return _complete_key(wanted, standing, keyring, applied)
    if wanted.kind == "webhook_endpoint":
        return _complete_endpoint(wanted, standing, applied)
    return None


def _complete_key(
    wanted: Wanted, standing: StoredObject | None, keyring: Keyring, applied: Applied
) -> Complaint | None:
    key = wanted.key
    if key is None and wanted.is_secret_open and standing is not None:
        wanted.spec["key_id"] = standing.spec["key_id"]
        wanted.secrets = dict(standing.secrets)
        return None
    if key is None:
        text, _ = new_key(keyring.pepper, new_key_id())
        if wanted.make_in is None:
            applied.shown.append((_called(wanted.kind, wanted.name), text))
        else:
            problem = _write_secret(wanted.make_in, text, applied)
            if problem is not None:
                return problem
        key = parse_key(text.encode())
        if key is None:
            raise RuntimeError("a new key does not parse")
    wanted.spec["key_id"] = key.id
    wanted.secrets = {"secret_hash": hash_secret(keyring.pepper, key.secret).hex()}
    return None


def _complete_endpoint(
    wanted: Wanted, standing: StoredObject | None, applied: Applied
) -> Complaint | None:
    given: list[bytes] = wanted.secrets.get("secrets", [])
    if not given and wanted.is_secret_open and standing is not None:
        wanted.secrets = dict(standing.secrets)
        return None
    if not given:
        text, raw = new_secret()
        given = [raw]
        if wanted.make_in is None:
            applied.shown.append((f"webhook secret of {wanted.name}", text))
        else:
            problem = _write_secret(wanted.make_in, text, applied)
            if problem is not None:
                return problem
    wanted.secrets = {"secrets": [base64.b64encode(raw).decode("ascii") for raw in given]}
    return None


def _write_secret(path: Path, text: str, applied: Applied) -> Complaint | None:
    """Make the file (0600); never overwrites one."""
    try:
        write_once(path, f"{text}\n".encode("ascii"))
    except OSError as error:
        path = Path(os.path.normpath(path))
        detail = f"secret_file {path} cannot be made ({error.strerror}); correct the path"
        return Complaint(1, "", detail)
    applied.files.append(path)
    return None


async def _apply(settings: Settings, text: str, base_dir: Path) -> Applied | list[Complaint]:
    async with _store(settings) as (store, keyring):
        return await apply_document(text, base_dir, store, keyring, allow_list(settings))


@contextlib.asynccontextmanager
async def _store(settings: Settings) -> AsyncIterator[tuple[ConfigStore, Keyring]]:
    if settings.database_url is None:
        raise ConfigError("SMSGW_DATABASE_URL is not set and no embedded server runs")
    keyring = Keyring(load_or_create_master_key(settings.master_key_file))
    pool = await open_pool(settings.database_url, size=1)
    try:
        yield ConfigStore(pool, keyring), keyring
    finally:
        await pool.close()


def allow_list(settings: Settings) -> AllowList:
    """The operator's exceptions for webhooks; a sandbox's data directory allows loopback too."""
    ports = set(settings.sandbox_ports) | {settings.port, settings.admin_port}
    is_sandbox = settings.is_sandbox
    if not is_sandbox and settings.sandbox_file.exists():
        is_sandbox = True  # `smsgw apply` beside a running sandbox: its ports stand in that file
        ports |= _sandbox_ports(settings.sandbox_file)
    return AllowList.of(settings.webhook_allow, loopback_except=ports if is_sandbox else None)


def _sandbox_ports(path: Path) -> set[int]:
    try:
        told: dict[str, Any] = json.loads(path.read_text("utf-8"))
        carriers = told["carriers"]
        urls = [told["url"], told["admin_url"], *(carrier["control_url"] for carrier in carriers)]
        ports = {int(url.rsplit(":", 1)[1].split("/", 1)[0]) for url in urls}
        return ports | {int(carrier["port"]) for carrier in carriers}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return set()


def _report(applied: Applied) -> str:
    lines = [f"made {_called(*key)}" for key in applied.made]
    lines += [f"changed {_called(*key)}" for key in applied.changed]
    lines += applied.notes
    lines += [f"wrote {os.path.normpath(path)} (0600)" for path in applied.files]
    for whose, secret in applied.shown:
        lines.append(f"{whose}: {secret}")
    if applied.shown:
        lines.append("Secrets are shown once; keep them now.")
    if not applied.made and not applied.changed:
        lines.append("unchanged")
    return "\n".join(lines) + "\n"


def _called(kind: str, name: str) -> str:
    """An object as a person calls it."""
    if kind == "api_key" and name.startswith("/"):
        return f"admin key {name[1:]}"
    return f"{_WORDS[kind]} {name}"
