"""What carriers' codes mean: one table of classes for every protocol, and what follows from each.

    data/status-classes.json   code → class, as recorded from standards and public tables
    data/status-more.json      the same for codes that it has not, or has for a number's sake only
    a channel's own            `status_classes` and `report_classes`: before both

    the answer to a submit ──▶ AnswerCodes ──▶ Rejected │ Throttled        RELIABILITY section 6
    a report               ──▶ receipts.normalise ──▶ a verdict            asks `recorded`

Vendors number differently and public tables contradict each other, so all of it is data. A code
that no table has is `unknown`; who counts it names it, so that somebody maps it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from sms.outcomes import Cause, Rejected, Throttled

UNKNOWN: Final = "unknown"
THROTTLED: Final = "throttled"
THROTTLE_PAUSE_S: Final = 1.0  # RELIABILITY 6: +1–5 s; the flow doubles it while it repeats

# class → (cause, our reason) of a submit's answer. `throttled` stands apart: another outcome.
_CAUSES: Final[Mapping[str, tuple[Cause, str]]] = {
    "perm_number": (Cause.NUMBER, "recipient.invalid"),
    "perm_blacklist": (Cause.NUMBER, "recipient.blocked"),
    "temp_handset": (Cause.NUMBER, "recipient.absent"),
    "freq_limit": (Cause.NUMBER, "carrier.frequency_cap"),
    "perm_content": (Cause.CONTENT, "content.blocked"),
    # a final no that names neither number nor text: resending elsewhere would not help
    "perm_other": (Cause.CONTENT, "carrier.rejected"),
    "perm_config": (Cause.CONFIG, "channel.misconfigured"),
    # it names the account as a whole, whoever's message it was: its login, balance, quota
    "perm_account": (Cause.CONFIG, "channel.account"),
    "temp_network": (Cause.CHANNEL, "carrier.system_error"),
    "ported": (Cause.NETWORK, "recipient.ported"),
    UNKNOWN: (Cause.UNKNOWN, "carrier.unknown_code"),
}
# What a channel's `status_classes` may say.
ANSWER_CLASSES: Final = frozenset((*_CAUSES, THROTTLED))
# Where the answers of a protocol stand in the data.
_SECTIONS: Final[Mapping[str, str]] = {
    "smpp": "smpp_command_status",
    "cmpp": "cmpp_submit_result",
    "sgip": "sgip_result_or_errorcode",
    "smgp": "smgp_status",
}

# What says that a sequence number was there before.
_BAD_SEQUENCES: Final[Mapping[str, int]] = {"cmpp": 3, "sgip": 9, "smgp": 12}


def family_of(protocol: str) -> str:
    """The protocol whose codes a channel speaks: `cmpp2` and `cmpp3` have the same."""
    return "cmpp" if protocol.startswith("cmpp") else protocol


@cache
def _read(name: str) -> dict[str, Any]:
    text = (Path(__file__).parent / "data" / name).read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def recorded(section: str) -> dict[str, str]:
    """Code → class of one section of the recorded table, codes as they stand there."""
    return {code: row[0] for code, row in _read("status-classes.json")[section].items()}


@cache
def _answers(family: str) -> Mapping[int, tuple[str, str]]:
    """Code → (class, remark); rows for a whole range say only that they are unknown."""
    section = _SECTIONS[family]
    rows = _read("status-classes.json")[section] | _read("status-more.json").get(section, {})
    return {number: (row[0], row[1]) for code, row in rows.items() if (number := _number(code))}


def _number(code: str) -> int:
    """A single code as a number; 0, success, is no business of ours, nor is a range."""
    try:
        return int(code, 0)
    except ValueError:
        return 0


def remark_of(family: str, code: int) -> str:
    """What the recorded table says of a code in words, "" when it has none."""
    return _answers(family).get(code, ("", ""))[1]


class AnswerCodes:
    """The codes in submits' answers of one channel: the protocol's, and its own before them.

    `family` is smpp, cmpp, sgip or smgp; `own` maps codes to `ANSWER_CLASSES`.
    """

    __slots__ = ("_bad_sequence", "_classes", "_write")

    def __init__(self, family: str, own: Mapping[int, str] | None = None) -> None:
        standard = {code: row[0] for code, row in _answers(family).items()}
        self._classes = {**standard, **(own or {})}
        self._bad_sequence = _BAD_SEQUENCES.get(family, 0)
        # As the carrier's documents write it.
        self._write: Callable[[int], str] = "{:#010x}".format if family == "smpp" else str

    def answered(self, code: int, *, is_first: bool) -> Rejected | Throttled:
        """The outcome of a submit that was answered with `code` (not 0).

        `is_first`: it was not put back before. Then a refused sequence number only sends it
        again, with a new one: the carrier refused the number, not the message.
        """
        if is_first and code == self._bad_sequence:
            return Throttled(THROTTLE_PAUSE_S, str(code))
        return self.outcome(code)

    def outcome(self, code: int, *, prefix: str = "") -> Rejected | Throttled:
        """The outcome of a submit that was answered with `code`, which is not success.

        `prefix` stands before the code as tenants and operators see it.
        """
        return outcome_of(self._classes.get(code, UNKNOWN), f"{prefix}{self._write(code)}")


def outcome_of(name: str, shown: str) -> Rejected | Throttled:
    """What a refusal of a class (`ANSWER_CLASSES`) is; `shown` is the carrier's own word for it."""
    if name == THROTTLED:
        return Throttled(THROTTLE_PAUSE_S, shown)
    cause, reason = _CAUSES[name]
    return Rejected(shown, cause, reason)


def own_classes(raw: Mapping[object, str]) -> dict[int, str]:
    """A channel's `status_classes` by number; keys that are no codes are left out."""
    return {code: word for key, word in raw.items() if (code := code_of(key)) is not None}


def code_of(key: object) -> int | None:
    """A code as it may be written in a configuration: 1025, "1025" or "0x0401"."""
    try:
        code = int(key, 0) if isinstance(key, str) else key
    except ValueError:
        return None
    is_code = isinstance(code, int) and not isinstance(code, bool) and 0 < code <= 0xFFFFFFFF
    return code if is_code and isinstance(code, int) else None
