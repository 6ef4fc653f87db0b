"""From bytes to `SendRequest`s: the fast decode, and the exact one when it says no.

`parse_one` and `parse_batch` raise `ProblemError` where the whole request falls; what is wrong
inside one message comes back as its list of errors, beside what was right of it.
"""

from __future__ import annotations

import asyncio
import re

import msgspec
from msgspec import UNSET

from gateway.api.explain import explain, unknown_names
from gateway.api.models import MAX_BATCH, BatchRequest, SendRequest, batch_decoder, send_decoder
from gateway.api.problems import FieldError, Problem, ProblemError, of_fields
from gateway.api.strict import is_clean, parse_strict

_DECODER_SAID_NO = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_ENTRY_DEPTH = 2  # an entry stands inside the object and its list
_DEFAULTS_DEPTH = 1
_THREAD_BYTES = 1 << 18  # a larger text is read again beside the loop, not on it
_MEDIA_TYPE = re.compile(
    rb'application/json[ \t]*(?:;[ \t]*charset[ \t]*=[ \t]*"?([^";\s]*)"?[ \t]*)?;?[ \t]*',
    re.IGNORECASE,
)


class Batch:
    """A batch whose outer form is right; its entries are decoded one by one."""

    __slots__ = ("_defaults", "default_errors", "defaults", "entries")

    def __init__(self, entries: list[bytes], defaults: bytes | None) -> None:
        self.entries = entries
        self.defaults = SendRequest()
        self.default_errors: list[FieldError] = []
        if defaults is not None:
            self.defaults, self.default_errors = _parse(defaults, _DEFAULTS_DEPTH, "/defaults")
        self._defaults = list(self.defaults.given())

    def entry(self, index: int) -> tuple[SendRequest, list[FieldError]]:
        """One message with the defaults under it; raises `ProblemError` when it is not JSON."""
        request, errors = _parse(self.entries[index], _ENTRY_DEPTH, f"/messages/{index}")
        for name, value in self._defaults:
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


def parse_one(body: bytes) -> tuple[SendRequest, list[FieldError]]:
    """The message in a whole body."""
    return _parse(body, 0, "")


async def parse_batch(body: bytes) -> Batch:
    """The outer object of a batch, with its defaults decoded."""
    try:
        outer = batch_decoder.decode(body)
    except _DECODER_SAID_NO:
        raise _explain_outer(await _parse_beside(body)) from None
    entries = [bytes(raw) for raw in outer.messages]
    defaults = None if outer.defaults is UNSET else bytes(outer.defaults)
    if not _outer_is_clean(body, entries, defaults):
        await _parse_beside(body)
    if not entries:
        raise _refuse("/messages", "batch.empty", "`messages` is empty; send 1 to 1000 of them.")
    if len(entries) > MAX_BATCH:
        detail = f"`messages` has {len(entries)} entries; send at most {MAX_BATCH} in a batch."
        raise _refuse("/messages", "batch.too_many", detail)
    return Batch(entries, defaults)


def _parse(raw: bytes, depth: int, where: str) -> tuple[SendRequest, list[FieldError]]:
    try:
        request = send_decoder.decode(raw)
    except _DECODER_SAID_NO:
        return explain(parse_strict(raw, depth, where))
    if not is_clean(raw, request):
        parse_strict(raw, depth, where)
    return request, []


async def _parse_beside(body: bytes) -> object:
    if len(body) < _THREAD_BYTES:
        return parse_strict(body)
    return await asyncio.to_thread(parse_strict, body)


def _outer_is_clean(body: bytes, entries: list[bytes], defaults: bytes | None) -> bool:
    """Whether neither name of the outer object can stand there twice, escaped or not."""
    if body.count(b'"messages"') != 1 or body.count(b'"defaults"') > 1:
        return False
    escapes = body.count(b"\\")
    if not escapes:
        return True
    inner = sum([entry.count(b"\\") for entry in entries])
    return escapes == inner + (0 if defaults is None else defaults.count(b"\\"))


def _explain_outer(document: object) -> ProblemError:
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
