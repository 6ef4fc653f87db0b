"""Reports that wait for a look-up, in their order: bounded, and shared between channels.

A channel may have as many waiting as there is room left for all of them together. So one that is
flooded takes half of the room and no more, a second one half of the rest, and who has few
waiting always finds a place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sms.model import Report


class Unknown:
    """At most `most` reports whose message is not known here."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._reports: list[Report] = []
        self._of: dict[int, int] = {}  # by channel: what waits, and what is being looked up

    def put(self, channel: int, reports: Sequence[Report]) -> Sequence[Report]:
        """Let reports of a channel wait; those that find no room are given back."""
        own = self._of.get(channel, 0)
        room = self._most - sum(self._of.values())
        fit = max(0, (room - own + 1) // 2)  # each that is let in takes room, too
        if fit < len(reports):
            reports, beyond = reports[:fit], reports[fit:]
        else:
            beyond = ()
        self._reports += reports
        self._of[channel] = own + len(reports)
        return beyond

    def page(self, limit: int) -> list[Report]:
        """Take the oldest out to look them up; they count until they are `gone`."""
        page, self._reports = self._reports[:limit], self._reports[limit:]
        return page

    def back(self, page: Sequence[Report]) -> None:
        """They could not be looked up: they come first again."""
        self._reports[:0] = page

    def gone(self, reports: Iterable[Report]) -> None:
        """They are settled, parked or refused."""
        of = self._of
        for report in reports:
            of[report.channel] -= 1

    def __len__(self) -> int:
        return len(self._reports)
