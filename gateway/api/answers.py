"""The bodies of the two 202s, written by hand: everything in them is known to be plain ASCII."""

from __future__ import annotations

import msgspec

from gateway.api.problems import FieldError
from gateway.views import rfc3339
from sms.model import Message


def build_accepted(message: Message) -> bytes:
    """The answer of POST /v1/messages. `client_ref` is always null in this version."""
    status = "accepted" if message.send_at is None else "scheduled"
    return (
        f'{{"id":"msg_{message.id:016x}","status":"{status}","class":"{message.message_class}",'
        f'"to":"+{message.number}","segments":{len(message.texts)},'
        f'"encoding":"{message.encoding}","client_ref":null,'
        f'"created_at":"{rfc3339(message.created_at)}"}}'
    ).encode("ascii")


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
    messages: list[Message], indexes: list[int], refused: list[tuple[int, list[FieldError]]]
) -> bytes:
    """The answer of POST /v1/batches: a verdict for each entry, in order."""
    accepted = ",".join(
        [
            f'{{"index":{index},"id":"msg_{message.id:016x}","segments":{len(message.texts)}}}'
            for index, message in zip(indexes, messages, strict=True)
        ]
    )
    rejected = msgspec.json.encode([_rejected(index, found) for index, found in refused])
    head = f'{{"id":"bat_{messages[0].id:016x}","accepted":[{accepted}],"rejected":'
    return head.encode("ascii") + rejected + b"}"
