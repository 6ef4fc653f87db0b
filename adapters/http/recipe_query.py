"""Asking a provider what became of a message, by a recipe.

absent holds ──────────────────────────▶ ABSENT
a state that `states` has as on its way ▶ TAKEN
a state that `states` has as an end ────▶ ENDED, with the report
anything else, and every 429 and 5xx ───▶ SILENT: it is asked again later
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from adapters.http.recipe_answer import TOO_MANY, carrier_id_of, readable, shared_id
from adapters.http.recipe_callback import (
    MAX_WORD,
    ON_THE_WAY,
    REPORT_NAMES,
    ReportPaths,
    parse_reports,
)
from adapters.http.recipe_section import Section
from adapters.http.recipe_tree import Format, Path, Test, Unreadable, read_body
from adapters.http.vendor import Asked, Reply, Told, Verdict, reference_of
from sms.model import Report

_SERVER_FAULTS: Final = 500
_SILENT: Final = Told(Verdict.SILENT)


@dataclass(frozen=True, slots=True)
class Tellings:
    """How the answers to questions are read."""

    form: Format
    separator: str | None
    absent: Test
    items: Path
    paths: ReportPaths
    channel: int
    has_ids: bool  # a send's answer gives ids; else a message is known by our reference
    shares_id: bool = False  # one id stands for a batch: ours has the number's mark behind it

    def provider_id(self, asked: Asked) -> str:
        """The provider's own id of it, "" when the answer was lost."""
        if not self.shares_id:
            return asked.carrier_id
        return asked.carrier_id.rpartition(".")[0]

    def read(self, asked: Asked, reply: Reply) -> Told:
        """What it says of one message; never raises."""
        if reply.status == TOO_MANY or reply.status >= _SERVER_FAULTS:
            return _SILENT
        try:
            tree = read_body(reply.body, self.form, self.separator)
        except Unreadable:
            tree = None
        if self.absent.holds(reply.status, tree):
            return Told(Verdict.ABSENT)
        if tree is None or reply.status // 100 != 2:
            return _SILENT
        mine = [one for one in self._listed(tree) if self._is_mine(one, asked)]
        return self._of_item(mine[0], asked) if len(mine) == 1 else _SILENT

    def _listed(self, tree: object) -> Sequence[object]:
        found = self.items.every(tree)
        return found[0] if len(found) == 1 and isinstance(found[0], list) else found

    def _is_mine(self, item: object, asked: Asked) -> bool:
        """Nothing that it names is another's."""
        paths, known = self.paths, self.provider_id(asked)
        named = paths.id.text(item) if paths.id and known else known
        word = paths.reference.text(item) if paths.reference else ""
        number = paths.digits(item)
        return (
            named == known
            and word in ("", reference_of(asked.submit))
            and number in ("", asked.submit.number)
        )

    def _of_item(self, item: object, asked: Asked) -> Told:
        word = self.paths.word(item)
        said = carrier_id_of(self.paths.id.text(item) if self.paths.id else "")
        if said and self.shares_id:
            said = shared_id(said, asked.submit.number)
        carrier_id = asked.carrier_id or said
        if not carrier_id and not self.has_ids:
            carrier_id = reference_of(asked.submit)
        if word not in self.paths.states.values() or not carrier_id:
            return _SILENT
        if word in ON_THE_WAY:
            return Told(Verdict.TAKEN, carrier_id)
        report = self.paths.read(item, self.channel)
        if report is None:  # it has no id of its own: the question had it
            error = self.paths.error.text(item) if self.paths.error else ""
            report = Report(self.channel, carrier_id, word, readable(error, MAX_WORD), "")
        return Told(Verdict.ENDED, carrier_id, replace(report, carrier_id=carrier_id))


TELLING_NAMES: Final = ("format", "separator", "absent", "items", *REPORT_NAMES)


def parse_tellings(
    section: Section, channel: int, *, national_cn: bool, has_ids: bool, shares_id: bool
) -> Tellings:
    """Read `query.answer`; adds to what is wrong."""
    if "states" not in section:
        section.complain("states", "is missing; a state that it does not have is asked about again")
    return Tellings(
        section.choice("format", Format, Format.JSON),
        section.text("separator") or None,
        section.test("absent"),
        section.path("items") or Path(()),
        parse_reports(section, national_cn=national_cn, shares_id=False, needs_whose=False),
        channel,
        has_ids,
        shares_id,
    )
