"""What carriers' codes say beyond one message: numbers that are no good, codes that nobody mapped.

    a final no (answer, report) ─▶ bad_number ─▶ waiting ─▶ once a second: suppressed ═COMMIT═▶
    a code that no table has ────▶ unmapped ───▶ counted, and named in the log once

RELIABILITY section 6. It is beside the path and promises nothing: killed before that commit, the
next text to the number is refused again and tells it again.

A channel that refuses every number is set up wrongly, and the numbers are good. So a channel may
give up ten numbers, and one more for each ten segments that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gateway.views import mask_number
from sms.ids import to_text
from sms.model import Held, Message, MessageClass
from store.audit import Author
from store.suppressions import Wanted
from telemetry.logs import get_logger
from telemetry.metrics import Metrics
from telemetry.series import OTHER, code_label

MAX_WAITING: Final = 1000
MAX_NAMED: Final = 1000  # different codes, and templates, that are named in the log
LOOKS: Final = 20  # for a text's template, in a second
NO_TEMPLATE: Final = "none"
FREE: Final = 10.0  # numbers that a channel may give up before it took anything
EARNED: Final = 0.1  # more for each segment that it took, never above
MOST: Final = 1000.0
# Who asks for a login code has the phone in hand, whatever a carrier said of the number last year.
CLASSES: Final = frozenset({MessageClass.MARKETING, MessageClass.TRANSACTIONAL})
AUTHOR: Final = Author("carrier", "permanent refusal")
_WHY: Final[Mapping[str, Held]] = {
    "recipient.invalid": Held.INVALID,
    "recipient.blocked": Held.BLOCKED,
}

log = get_logger(__name__)


class CarrierWords:
    """Takes note, synchronously; `gateway.suppressing` writes what waits."""

    def __init__(self, metrics: Metrics, *, suppresses: bool = True) -> None:
        """`suppresses` False: bad numbers are counted only."""
        self._metrics = metrics
        self._suppresses = suppresses
        self._named: set[tuple[str, str]] = set()
        self._refused: set[tuple[str, str]] = set()  # channel, template
        self._left: dict[str, float] = {}  # by channel: numbers that it may still give up
        self._waiting: dict[tuple[int, str], Wanted] = {}
        self._looks = 0  # for a template, in this round
        # The template that made a text, as its id; None = none did. Set with each configuration.
        self.template_of: Callable[[Message], str | None] = lambda message: None

    def content_refused(self, channel: str, message: Message, code: str) -> None:
        """A carrier refused the text, its signature or template: an alarm per template."""
        template = OTHER
        if self._looks < LOOKS:  # a carrier that refuses everything must not keep us busy
            self._looks += 1
            template = self.template_of(message) or NO_TEMPLATE
        self._metrics.content_refused_total.inc((channel, template))
        if (channel, template) not in self._refused and len(self._refused) < MAX_NAMED:
            self._refused.add((channel, template))
            log.warning(
                "a carrier refuses what a text says",
                channel=channel,
                template=template,
                code=code_label(code),
                action="register text or signature there, or correct the template",
            )

    def unmapped(self, channel: str, code: str) -> None:
        """Name a code that no table has: RELIABILITY 6 asks for an alarm to map it."""
        shown = code_label(code)
        self._metrics.unmapped_codes_total.inc((channel, shown))
        if (channel, shown) not in self._named and len(self._named) < MAX_NAMED:
            self._named.add((channel, shown))
            log.warning(
                "a carrier's code is in no table",
                channel=channel,
                code=shown,
                action="ask what it means and map it in status_classes or report_classes",
            )

    def taken(self, channel: str, segments: int) -> None:
        """The carrier took so many segments: it does not refuse everything."""
        left = self._left.get(channel, FREE)
        if left < MOST:
            self._left[channel] = min(left + EARNED * segments, MOST)

    def bad_number(self, channel: str, message: Message, reason: str | None) -> None:
        """A carrier said for good that the number does not exist, or is blocked (`reason`)."""
        why = _WHY.get(reason or "")
        if why is None:
            return
        left = self._left.get(channel, FREE)
        if not self._suppresses or left < 1.0 or len(self._waiting) >= MAX_WAITING:
            self._metrics.bad_numbers_total.inc((channel, "left"))
            return
        self._left[channel] = left - 1.0
        self._metrics.bad_numbers_total.inc((channel, "suppressed"))
        shown = f"{mask_number(message.number)} {to_text('msg', message.id)}"
        wanted = Wanted(message.tenant, message.number, CLASSES, shown, why)
        self._waiting.setdefault((message.tenant, message.number), wanted)

    def waiting(self) -> list[Wanted]:
        """What is to be written; it stays until `written`. Asked once a second."""
        self._looks = 0
        return list(self._waiting.values())

    def written(self, wanted: list[Wanted]) -> None:
        """These are in the list now."""
        for one in wanted:
            self._waiting.pop((one.tenant, one.number), None)
