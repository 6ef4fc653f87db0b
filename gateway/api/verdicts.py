"""A batch's verdicts: one for each entry, in the answer and, for a replay, in the batch's row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from gateway.api.answers import build_rejected
from gateway.api.problems import FieldError, Problem, duplicate_ref, of_fields
from sms.model import Message

_kept = msgspec.json.Decoder(list[msgspec.defstruct("Kept", [("index", int)])])  # type: ignore[misc]


class Verdicts:
    """What becomes of the entries; those that are admitted stand in `messages`, in order."""

    __slots__ = ("_firsts", "_twins", "indexes", "messages", "refused", "rejected", "told")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.indexes: list[int] = []  # of the messages
        self.refused: list[tuple[int, list[FieldError]]] = []
        self.told: list[tuple[int, list[FieldError]]] = []  # all that are not accepted, in order
        self.rejected = b"[]"  # the same as it is told and kept
        self._firsts: dict[str, Message] = {}  # by client_ref
        self._twins: list[tuple[int, Message]] = []  # refused for the sake of an earlier entry

    def admit(self, index: int, message: Message) -> None:
        """An entry that may be accepted; the second with a client_ref may not."""
        if message.client_ref is not None:
            first = self._firsts.setdefault(message.client_ref, message)
            if first is not message:
                self._twins.append((index, first))
                return
        self.messages.append(message)
        self.indexes.append(index)

    def refuse(self, index: int, errors: list[FieldError]) -> None:
        """An entry that may not, and why."""
        self.refused.append((index, errors))

    def take_out(self, taken: Mapping[int, int]) -> None:
        """Places in `messages` whose client_ref an earlier message has, with that one's id."""
        self.take_away({place: duplicate_ref(first_id) for place, first_id in taken.items()})

    def take_away(self, refused: Mapping[int, FieldError]) -> None:
        """Places in `messages` that may not after all; their twins may not either."""
        for place, error in refused.items():
            message = self.messages[place]
            self.refuse(self.indexes[place], [error])
            for index, first in self._twins:
                if first is message:
                    self.refuse(index, [error])
            self._twins = [twin for twin in self._twins if twin[1] is not message]
        left = [place for place in range(len(self.messages)) if place not in refused]
        self.messages = [self.messages[place] for place in left]
        self.indexes = [self.indexes[place] for place in left]

    def settle(self) -> bytes:
        """Write `rejected`; the messages have their ids."""
        twins = [(index, [duplicate_ref(first.id)]) for index, first in self._twins]
        self.told = sorted(self.refused + twins, key=_index)
        self.rejected = build_rejected(self.told)
        return self.rejected

    def problem(self) -> Problem:
        """The answer when no entry is left: what is wrong with each."""
        self.refused.sort(key=_index)
        problem = of_fields(
            [
                error._replace(pointer=f"/messages/{index}{error.pointer}")
                for index, found in self.refused
                for error in found
            ]
        )
        problem.own_status = 422
        return problem


def _index(verdict: tuple[int, object]) -> int:
    return verdict[0]


def indexes_beside(rejected: bytes, count: int) -> Iterator[int]:
    """The indexes of `count` accepted entries: all that do not stand in `rejected`."""
    refused = {entry.index for entry in _kept.decode(rejected)}
    index = 0
    while count:
        if index not in refused:
            count -= 1
            yield index
        index += 1
