"""From bytes to `SendRequest`s: the fast decode, and the exact one when it says no.

`parse_one` and `parse_batch` raise `ProblemError` where the whole request falls; what is wrong
inside one message comes back as its list of errors, beside what was right of it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
from msgspec import UNSET

from gateway.api.explain import explain, unknown_names
from gateway.api.models import (
    MAX_BATCH,
    BatchRequest,
    SendRequest,
    batch_decoder,
    entries_decoder,
    send_decoder,
)
from gateway.api.problems import FieldError, Problem, ProblemError, of_fields
from gateway.api.strict import Budget, is_clean, parse_strict

_DECODER_SAID_NO = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_ENTRY_DEPTH = 2  # an entry stands inside the object and its list
_DEFAULTS_DEPTH = 1
MAX_MESSAGE = 1 << 20  # bytes, alone or in a batch
THREAD_BYTES = 1 << 15  # what is larger is read beside the loop, not on it
# One at a time: each thread that works in Python may keep the loop waiting for 5 ms.
_beside = ThreadPoolExecutor(1, "smsgw-json")
_OUTER_NAME = re.compile(rb'\s*[{,]\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:\s*')
_OUTER_END = re.compile(rb"\s*\}")
_any_decoder = msgspec.json.Decoder()
_Result = TypeVar("_Result")
_MEDIA_TYPE = re.compile(
    rb'application/json[ \t]*(?:;[ \t]*charset[ \t]*=[ \t]*"?([^";\s]*)"?[ \t]*)?;?[ \t]*',
    re.IGNORECASE,
)


class Batch:
    """A batch whose outer form is right; its entries are decoded one by one."""

    __slots__ = (
        "_beside_template",
        "_beside_text",
        "_budget",
        "_defaults",
        "default_errors",
        "defaults",
        "entries",
        "raw_defaults",
    )

    def __init__(
        self,
        entries: list[bytes],
        defaults: SendRequest,
        default_errors: list[FieldError],
        raw_defaults: bytes = b"",
    ) -> None:
        self.entries = entries
        self.raw_defaults = raw_defaults
        self.defaults = defaults
        self.default_errors = default_errors
        given = self._defaults = list(defaults.given())
        # An entry's own text takes the place of a template, and the other way round.
        self._beside_text = [one for one in given if one[0] not in ("template_id", "variables")]
        self._beside_template = [one for one in given if one[0] != "text"]
        self._budget = Budget()

    async def entry_beside(self, index: int) -> tuple[SendRequest, list[FieldError]]:
        """`entry`, beside the loop: for one of more than `THREAD_BYTES`."""
        return await run_beside(self.entry, index)

    def entry(self, index: int) -> tuple[SendRequest, list[FieldError]]:
        """One message with the defaults under it; raises `ProblemError` when it is not JSON."""
        request, errors = _parse(
            self.entries[index], _ENTRY_DEPTH, f"/messages/{index}", self._budget
        )
        defaults = self._defaults
        if request.text is not UNSET:
            defaults = self._beside_text
        elif request.template_id is not UNSET or request.variables is not UNSET:
            defaults = self._beside_template
        for name, value in defaults:
            if getattr(request, name) is UNSET:
                setattr(request, name, value)
        return request, errors


def check_media_type(headers: dict[bytes, bytes]) -> None:
    """Raise the 415 unless the body is plain JSON in UTF-8."""
    if b"content-encoding" in headers:
        detail = "The Content-Encoding header is not supported; send the body as it is."
        raise ProblemError(Problem("body.encoding", detail))
    given = headers.get(b"content-type")
    match = None if given is None else _MEDIA_TYPE.fullmatch(given.strip())
    if match is None:
        detail = "The Content-Type header must say application/json."
        raise ProblemError(Problem("body.media_type", detail))
    if match[1] is not None and match[1].lower() != b"utf-8":
        detail = "The charset in Content-Type must be utf-8."
        raise ProblemError(Problem("body.charset", detail))


def canonical(raw: bytes) -> bytes:
    """JSON in one spelling: no white space, names sorted, escapes undone; for comparing.

    What cannot be read so stays as it is: then only the same bytes are the same.
    """
    try:
        return msgspec.json.encode(_any_decoder.decode(raw), order="sorted")
    except _DECODER_SAID_NO:
        return raw


def parse_one(body: bytes) -> tuple[SendRequest, list[FieldError]]:
    """The message in a whole body; only for one of at most `THREAD_BYTES`."""
    return _parse(body, 0, "")


async def parse_one_beside(body: bytes) -> tuple[SendRequest, list[FieldError]]:
    """`parse_one` for any size."""
    return parse_one(body) if len(body) <= THREAD_BYTES else await run_beside(parse_one, body)


async def parse_batch(body: bytes) -> Batch:
    """The outer object of a batch, with its defaults decoded."""
    try:
        outer = batch_decoder.decode(body)
    except _DECODER_SAID_NO:
        raise await _explain_outer(body) from None
    if not _stands_once(body, outer):
        raise ProblemError(Problem("json.duplicate_key", "In the body: a name stands twice."))
    if len(body) > MAX_MESSAGE:
        await asyncio.sleep(0)  # 8 MiB take some 10 ms so far, and will again
    entries = await _entries(body, outer)
    if not entries:
        raise _refuse("/messages", "batch.empty", "`messages` is empty; send 1 to 1000 of them.")
    for index, entry in enumerate(entries):
        _check_size(entry, f"/messages/{index}")
    if outer.defaults is UNSET:
        return Batch(entries, SendRequest(), [])
    raw = bytes(outer.defaults)
    _check_size(raw, "/defaults")
    args = (raw, _DEFAULTS_DEPTH, "/defaults")
    found = _parse(*args) if len(raw) <= THREAD_BYTES else await run_beside(_parse, *args)
    return Batch(entries, *found, raw)


async def _entries(body: bytes, outer: BatchRequest) -> list[bytes]:
    """The text of every message; raises when `messages` is no list, or too long a one."""
    raw = bytes(outer.messages)
    try:
        found = msgspec.structs.astuple(entries_decoder.decode(raw))
    except msgspec.MsgspecError:
        if not raw.startswith(b"["):
            raise await _explain_outer(body) from None
        detail = f"`messages` has over {MAX_BATCH} entries; send at most {MAX_BATCH} in a batch."
        raise _refuse("/messages", "batch.too_many", detail) from None
    return [bytes(entry) for entry in found if entry is not UNSET]


def _check_size(raw: bytes, where: str) -> None:
    if len(raw) > MAX_MESSAGE:
        detail = f"In {where}: a message is larger than {MAX_MESSAGE} bytes; send less in it."
        raise ProblemError(Problem("body.too_large", detail))


def _parse(
    raw: bytes, depth: int, where: str, budget: Budget | None = None
) -> tuple[SendRequest, list[FieldError]]:
    try:
        request = send_decoder.decode(raw)
    except _DECODER_SAID_NO:
        return explain(parse_strict(raw, depth, where, budget))
    if not is_clean(raw, request):
        parse_strict(raw, depth, where, budget)
    return request, []


async def run_beside(work: Callable[..., _Result], *args: object) -> _Result:
    """Run what reads more than `THREAD_BYTES` in the one thread that is kept for it."""
    return await asyncio.get_running_loop().run_in_executor(_beside, work, *args)


def _stands_once(body: bytes, outer: BatchRequest) -> bool:
    """Whether neither name of the outer object stands there twice, escaped or not.

    The decoder kept the last value of each name: the members are walked by what it kept.
    """
    kept = {"messages": bytes(outer.messages)}
    if outer.defaults is not UNSET:
        kept["defaults"] = bytes(outer.defaults)
    at = 0
    while kept:
        name = _OUTER_NAME.match(body, at)
        value = None if name is None else kept.pop(json.loads(name[1]), None)
        if name is None or value is None or not body.startswith(value, name.end()):
            return False
        at = name.end() + len(value)
    return _OUTER_END.match(body, at) is not None


async def _explain_outer(body: bytes) -> ProblemError:
    if len(body) <= THREAD_BYTES:
        document = parse_strict(body)
    else:
        document = await run_beside(parse_strict, body)
    if not isinstance(document, dict):
        return _refuse("", "field.type", "The body must be one JSON object.")
    errors = unknown_names(document, BatchRequest.__struct_fields__)
    if "messages" not in document:
        errors.append(
            FieldError("/messages", "field.missing", "`messages` is missing; send a list.")
        )
    elif document["messages"] is None:
        errors.append(FieldError("/messages", "field.null", "`messages` is null; send a list."))
    elif not isinstance(document["messages"], list):
        errors.append(FieldError("/messages", "field.type", "`messages` must be a list."))
    if not errors:
        return ProblemError(Problem("json.syntax", "In the body: not JSON as RFC 8259 has it."))
    return ProblemError(of_fields(errors))


def _refuse(pointer: str, code: str, detail: str) -> ProblemError:
    return ProblemError(of_fields([FieldError(pointer, code, detail)]))
