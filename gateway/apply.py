"""`smsgw apply FILE`: one YAML file becomes the configuration in force.

It shows what the file changes (`gateway/diff.py`), makes it so (`gateway/plan.py`) and ends when
the workers of this node go by it. `--dry-run` ends after the first. A second run of the same file
changes nothing. Secrets that had to be made are shown once, in what this returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

from adapters.http.callbacks import CALLBACKS, path_of
from adapters.http.vendor import CallKind
from adapters.http.vendors import VENDORS
from gateway import diff, inforce
from gateway.allowlist import allow_list
from gateway.document import ObjectKey, Surroundings
from gateway.plan import Applied, Plan, StorePort, carry_out, make_plan
from gateway.protocols import PROTOCOLS
from gateway.settings import Settings
from gateway.terminal import Terminal
from gateway.yamlfile import MAX_BYTES, Complaint
from sms.errors import ConfigError
from store.audit import Author
from store.config import ConfigMovedError, ConfigStore
from store.database import open_pool
from store.objects import StoredObject
from store.seal import KEY_BYTES, Keyring, load_or_create_master_key, read_master_key
from webhooks.address import AllowList

COMMAND = "smsgw apply"
_MAX_FILE = MAX_BYTES + 1  # read; one byte too many is told as such
_NO_ID = f"{CALLBACKS}/<id, once applied>/{{}}"
_TRIES = 3  # somebody may change something between our look and our write


def run(settings: Settings, path: Path, terminal: Terminal, *, is_dry: bool = False) -> int:
    """Apply a file and say what it did; 0, or 2 when the file is wrong and nothing changed."""
    try:
        with path.open("rb") as handle:
            text = handle.read(_MAX_FILE).decode()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path} cannot be read ({cause}); name a YAML file") from None
    base_dir = path.absolute().parent
    if is_dry:
        plan = asyncio.run(_plan(settings, text, base_dir))
        if isinstance(plan, Plan):
            _show(plan, terminal)
            _rehearse(plan, terminal)
            _tell_callbacks(foreseen_callbacks(plan), terminal)
            terminal.say("dry run: nothing was changed", "planned", changes=len(plan.changes))
            return 0
        return _complain(path, plan, terminal)
    result = asyncio.run(_apply(settings, text, base_dir, terminal))
    if not isinstance(result, Applied):
        return _complain(path, result, terminal)
    _report(result, terminal)
    told = inforce.wait(settings, result.version, _tell)
    terminal.say(told, "applied", version=result.version, text=told)
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def apply_text(settings: Settings, text: str, base_dir: Path) -> Applied | list[Complaint]:
    """Apply the text of a file whose secret files stand under `base_dir`; a new event loop."""
    return asyncio.run(_apply(settings, text, base_dir, None))


def current(settings: Settings) -> Mapping[ObjectKey, StoredObject]:
    """Every object in force, secrets open; a new event loop."""

    async def look() -> Mapping[ObjectKey, StoredObject]:
        async with _store(settings) as (store, _):
            return await store.current()

    return asyncio.run(look())


async def apply_document(  # noqa: PLR0913 (keyword-only behind the fifth)
    text: str,
    base_dir: Path,
    store: StorePort,
    keyring: Keyring,
    allow: AllowList,
    *,
    has_client_ca: bool = True,
    terminal: Terminal | None = None,
    author: Author | None = None,
) -> Applied | list[Complaint]:
    """Check the file as a whole and put it in force, or return all that is wrong with it.

    The plan is shown on `terminal` before anything is made. When somebody else changed the
    configuration meanwhile it is compared and shown anew.
    """
    around = Surroundings(base_dir, {}, PROTOCOLS, allow, has_client_ca=has_client_ca)
    for left in range(_TRIES, 0, -1):
        plan = await make_plan(text, around, store, keyring)
        if not isinstance(plan, Plan):
            return plan
        if terminal is not None:
            _show(plan, terminal)
        try:
            return await carry_out(plan, store, keyring, author or operator())
        except ConfigMovedError:
            if left == 1:
                raise
    raise RuntimeError("unreachable")


def operator(command: str = COMMAND) -> Author:
    """The account this command runs as: by the system's word, not by the environment's."""
    uid = os.getuid()
    name = f"uid {uid}"
    with contextlib.suppress(KeyError):
        name = pwd.getpwuid(uid).pw_name
    return Author(kind="command", name=command, os_user=name)


async def _plan(settings: Settings, text: str, base_dir: Path) -> Plan | list[Complaint]:
    async with _store(settings, is_dry=True) as (store, keyring):
        around = Surroundings(
            base_dir,
            {},
            PROTOCOLS,
            allow_list(settings),
            has_client_ca=settings.tls_client_ca_file is not None,
        )
        return await make_plan(text, around, store, keyring)


async def _apply(
    settings: Settings, text: str, base_dir: Path, terminal: Terminal | None
) -> Applied | list[Complaint]:
    async with _store(settings) as (store, keyring):
        result = await apply_document(
            text,
            base_dir,
            store,
            keyring,
            allow_list(settings),
            has_client_ca=settings.tls_client_ca_file is not None,
            terminal=terminal,
        )
        if isinstance(result, Applied):
            named = {*result.made, *result.changed, *result.unchanged}
            standing = await store.current()
            result.callbacks = callbacks_of(standing[key] for key in standing if key in named)
        return result


@contextlib.asynccontextmanager
async def _store(
    settings: Settings, *, is_dry: bool = False
) -> AsyncIterator[tuple[ConfigStore, Keyring]]:
    if settings.database_url is None:
        raise ConfigError("SMSGW_DATABASE_URL is not set and no embedded server runs")
    keyring = Keyring(_master_key(settings.master_key_file, is_dry=is_dry))
    pool = await open_pool(settings.database_url, size=1)
    try:
        yield ConfigStore(pool, keyring), keyring
    finally:
        await pool.close()


def _master_key(path: Path, *, is_dry: bool) -> bytes:
    """The key, made when it is missing; a dry run makes none: what is not there sealed nothing."""
    if not is_dry:
        return load_or_create_master_key(path)
    return read_master_key(path) if path.exists() else secrets.token_bytes(KEY_BYTES)


def callbacks_of(objects: Iterable[StoredObject]) -> list[tuple[str, str, str]]:
    """Where vendors call us for their channels: (channel, kind, address); secrets are not in it."""
    return [
        told
        for one in objects
        if one.kind == "channel"
        for told in _callbacks(one.name, one.spec, one.id)
    ]


def foreseen_callbacks(plan: Plan) -> list[tuple[str, str, str]]:
    """The same before anything is made; the id of a new channel is not known yet."""
    return [
        told
        for one in plan.objects
        if one.wanted.kind == "channel"
        for told in _callbacks(
            one.wanted.name, one.wanted.spec, None if one.standing is None else one.standing.id
        )
    ]


def _callbacks(
    name: str, spec: Mapping[str, Any], number: int | None
) -> list[tuple[str, str, str]]:
    own: Mapping[str, Any] = spec.get("settings", {})
    if spec["protocol"] not in VENDORS or not own.get("callbacks", True):
        return []
    base = str(own.get("public_url", "")).rstrip("/")
    paths = {kind: _NO_ID.format(kind.value) for kind in CallKind}
    if number is not None:
        paths = {kind: path_of(number, kind) for kind in CallKind}
    return [(name, kind.value, base + path) for kind, path in paths.items()]


def _rehearse(plan: Plan, terminal: Terminal) -> None:
    """The requests that channels described by configuration alone would send, secrets hidden."""
    for one in plan.changes:
        wanted = one.wanted
        kind = VENDORS.get(wanted.spec.get("protocol", "")) if wanted.kind == "channel" else None
        if kind is None or kind.rehearse is None:
            continue
        settings = {**wanted.spec.get("settings", {}), **wanted.secrets}
        lines = kind.rehearse(settings, str(wanted.spec.get("sender", "")))
        if terminal.is_json:
            terminal.raw({"event": "rehearsal", "channel": wanted.name, "lines": lines})
            continue
        terminal.styled(f"{wanted.name} would send:", "bold")
        for line in lines:
            terminal.styled(f"    {line}")


def _show(plan: Plan, terminal: Terminal) -> None:
    """What the file changes, before it does."""
    if terminal.is_json:
        for document in diff.documents(plan):
            terminal.raw({"event": "change", **document})
        for note in plan.notes:
            terminal.raw({"event": "note", "text": note})
        return
    for sign, line in diff.lines(plan):
        terminal.styled(f"{sign or '   '} {line}", diff.STYLES.get(sign, ""))
    for note in plan.notes:
        terminal.styled(note, "bold")


def _report(applied: Applied, terminal: Terminal) -> None:
    """What was made that the diff could not show yet."""
    for path in applied.files:
        shown = os.path.normpath(path)
        terminal.say(f"wrote {shown} (0600)", "wrote", path=shown)
    for whose, secret in applied.shown:
        terminal.say(f"{whose}: {secret}", "secret", whose=whose, secret=secret)
    _tell_callbacks(applied.callbacks, terminal)
    if applied.shown and not terminal.is_json:
        terminal.say("Secrets are shown once; keep them now.", "note")


def _tell_callbacks(callbacks: Iterable[tuple[str, str, str]], terminal: Terminal) -> None:
    for channel, kind, address in callbacks:
        told = {"channel": channel, "kind": kind, "address": address}
        terminal.say(f"channel {channel}: {kind} come to {address}", "callback", **told)


def _complain(path: Path, complaints: list[Complaint], terminal: Terminal) -> int:
    for line, pointer, detail in [(one.line, one.pointer, one.detail) for one in complaints]:
        where = f"{path}:{line}: {pointer.removeprefix('/') or 'the file'}"
        told = {"line_number": line, "pointer": pointer, "detail": detail}
        terminal.fail(f"{where}: {detail}", "complaint", **told)
    count = len(complaints)
    terminal.fail(f"{count} to correct; nothing was changed.", "refused", complaints=count)
    return 2
