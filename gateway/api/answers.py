"""The bodies of the two 202s, written by hand: what is not quoted is known to be plain ASCII."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.api.problems import FieldError
from gateway.views import rfc3339
from sms.model import Message


def build_accepted(message: Message) -> bytes:
    """The answer of POST /v1/messages, the same from the object and from its row."""
    ref = message.client_ref
    return (
        f'{{"id":"msg_{message.id:016x}","status":"accepted","class":"{message.message_class}",'
        f'"to":"+{message.number}","segments":{len(message.texts)},'
        f'"encoding":"{message.encoding}","client_ref":{"null" if ref is None else _quote(ref)},'
        f'"created_at":"{rfc3339(message.created_at)}"}}'
    ).encode()


def _quote(text: str) -> str:
    return msgspec.json.encode(text).decode()


def build_rejected(refused: list[tuple[int, list[FieldError]]]) -> bytes:
    """The verdicts of entries that are not accepted: what is told, and kept for a replay."""
    return msgspec.json.encode([_rejected(index, found) for index, found in refused])


def _rejected(index: int, found: list[FieldError]) -> dict[str, object]:
    """One entry's verdict: its first fault, and all of them with pointers into the request."""
    at = f"/messages/{index}"
    return {
        "index": index,
        "code": found[0].code,
        "detail": found[0].detail,
        "errors": [
            {"pointer": at + error.pointer, "code": error.code, "detail": error.detail}
            for error in found
        ],
    }


def build_batch_accepted(
    accepted: Iterable[tuple[int, int, int]], first_id: int, rejected: bytes
) -> bytes:
    """The answer of POST /v1/batches; `accepted` is (index, message id, segments) in order."""
    told = ",".join(
        [
            f'{{"index":{index},"id":"msg_{message_id:016x}","segments":{segments}}}'
            for index, message_id, segments in accepted
        ]
    )
    head = f'{{"id":"bat_{first_id:016x}","accepted":[{told}],"rejected":'
    return head.encode("ascii") + rejected + b"}"
