"""What a provider pushes to us, by a recipe: whose call it is, and what its members mean.

    Call ─▶ verify (secret or signature) ─▶ tree ─▶ items ─▶ only ─▶ reports or texts

A call that is not proven, cannot be read, or of which nothing is usable is refused with a status
and a word about why; nothing of it is echoed. Of a list, what is usable counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from adapters import checks
from adapters.http import recipe_sign as signs
from adapters.http.recipe_answer import carrier_id_of, readable, shared_id
from adapters.http.recipe_section import Section
from adapters.http.recipe_sign import Place, Signing, Where
from adapters.http.recipe_template import Template
from adapters.http.recipe_tree import (
    Format,
    Path,
    Test,
    Unreadable,
    read_body,
    read_form,
    read_json,
)
from adapters.http.vendor import Call, CallAnswer
from sms.concatenation import whole
from sms.errors import CallRefused
from sms.model import Inbound, Report
from sms.numbers import phone_of

# The words that `states` may translate into; what each leads to says receipts.normalise.
REPORT_WORDS: Final = (
    *("DELIVRD", "UNDELIV", "EXPIRED", "DELETED", "REJECTD", "UNKNOWN"),
    *("ACCEPTD", "ENROUTE"),  # not an end
)
ON_THE_WAY: Final = frozenset({"ACCEPTD", "ENROUTE"})
MAX_WORD: Final = 64
MAX_NUMBER: Final = 32
_HEADER: Final = "header."  # {header.x-timestamp}
_CALL_PLACES: Final = frozenset({"method", "url", "path", "query", "body"})


class TextForm(StrEnum):
    """How a provider writes the text of a phone."""

    PLAIN = "plain"
    HEX_UTF16 = "hex_utf16"
    HEX_UTF8 = "hex_utf8"


@dataclass(frozen=True, slots=True)
class Proof:
    """How a push shows that it is the provider's: a fixed value, or a signature."""

    place: Place
    value: Template | None  # of the account's places; None = a signature
    signing: Signing | None
    stamp: str = ""  # the header that holds the moment of the call, "" = none
    fresh_s: float = 300.0

    @property
    def names(self) -> frozenset[str]:
        """The places it needs values for."""
        if self.value is not None:
            return self.value.names
        return self.signing.names if self.signing is not None else frozenset()

    def check(self, call: Call, tree: object, account: Mapping[str, str]) -> None:
        """CallRefused (401) unless the call is proven."""
        given = self._given(call, tree)
        if self.value is not None:
            if not signs.same(given, self.value.render(account)):
                raise CallRefused(401, "the callback secret is missing or wrong")
            return
        if self.signing is not None:
            if not signs.same(given, self.signing.proof(_values(call, account, self.signing))):
                raise CallRefused(401, "the signature is missing or wrong")
            self._check_moment(call)

    def _given(self, call: Call, tree: object) -> str:
        if self.place.where is Where.HEADER:
            return call.headers.get(self.place.name.lower(), "")
        if self.place.where is Where.QUERY:
            return _query(call).get(self.place.name, "")
        return Path((self.place.name,)).text(tree)

    def _check_moment(self, call: Call) -> None:
        if not self.stamp:
            return
        said = call.headers.get(self.stamp, "")
        is_number = said.isascii() and said.isdecimal() and len(said) <= 13
        moment = float(said) if is_number else 0.0
        moment = moment / 1000 if moment > 1e11 else moment  # milliseconds
        if abs(call.unix - moment) > self.fresh_s:
            raise CallRefused(401, "the signature's time is missing or too far from ours")


def _values(call: Call, account: Mapping[str, str], signing: Signing) -> dict[str, str]:
    """What a provider may have signed."""
    parts = _parts(call)
    headers = {
        name: call.headers.get(name.removeprefix(_HEADER).lower(), "")
        for name in signing.names
        if name.startswith(_HEADER)
    }
    return {
        **account,
        **headers,
        "method": call.method,
        "url": call.url,
        "path": parts[0],
        "query": parts[1],
        "body": call.body.decode("utf-8", "surrogateescape"),
    }


def _parts(call: Call) -> tuple[str, str]:
    try:
        parts = urlsplit(call.url)
    except ValueError:
        return "", ""
    return parts.path, parts.query


def _query(call: Call) -> dict[str, str]:
    try:
        return read_form(_parts(call)[1])
    except Unreadable as error:
        raise CallRefused(400, f"the query cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class Envelope:
    """How a push is written, and which of its items count."""

    form: Format
    json_field: str  # the form's field that holds JSON, "" = none
    items: Path
    only: Test
    answer: CallAnswer
    proof: Proof | None  # None = the channel's callback_secret, where it has one

    def open(self, call: Call, account: Mapping[str, str]) -> list[object]:
        """The items of a push; CallRefused when it is not the provider's or cannot be read."""
        if self.proof is not None and self.proof.place.where is not Where.FIELD:
            self.proof.check(call, None, account)  # before anything of it is read
        try:
            tree = self._tree(call)
        except Unreadable as error:
            raise CallRefused(400, f"the body cannot be read: {error}") from None
        if self.proof is not None and self.proof.place.where is Where.FIELD:
            self.proof.check(call, tree, account)
        return self.pick(tree)

    def _tree(self, call: Call) -> object:
        if call.method == "GET" or self.form is Format.QUERY:
            tree: object = _query(call)
        else:
            tree = read_body(call.body, self.form)
        if not self.json_field:
            return tree
        return read_json(Path((self.json_field,)).text(tree) if isinstance(tree, Mapping) else "")

    def pick(self, tree: object) -> list[object]:
        """The items that count."""
        found = self.items.every(tree)
        if len(found) == 1 and isinstance(found[0], list):
            found = found[0]
        return [one for one in found if not self.only.alternatives or self.only.holds(0, one)]


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Where the parts of a report stand, and what its state words mean."""

    id: Path | None
    reference: Path | None
    number: Path | None
    state: Path
    error: Path | None
    states: Mapping[str, str]
    national_cn: bool = False
    shares_id: bool = False

    def word(self, tree: object) -> str:
        """The state as a common word; what `states` has not as it came.

        A bare number that it has not gets a `#`: the common table takes numbers for SMPP's.
        """
        said = readable(self.state.text(tree).strip(), MAX_WORD)
        word = self.states.get(said)
        if word is not None:
            return word
        return f"#{said}" if said.isdecimal() else said

    def read(self, item: object, channel: int) -> Report | None:
        """The report; None when it has no state, or nothing that says whose it is."""
        number = self.digits(item)
        carrier_id = carrier_id_of(self.id.text(item) if self.id else "")
        reference = carrier_id_of(self.reference.text(item) if self.reference else "")
        if carrier_id and self.shares_id:
            carrier_id = shared_id(carrier_id, number)
        word = self.word(item)
        if not word or not (carrier_id or reference):
            return None
        error = readable(self.error.text(item).strip() if self.error else "", MAX_WORD)
        # Where the provider gives no id of its own, our reference is what a submit is known by.
        return Report(channel, carrier_id or reference, word, error, number, reference=reference)

    def digits(self, item: object) -> str:
        """The number it names, as E.164 digits; "" when it names none."""
        text = self.number.text(item) if self.number else ""
        found = phone_of(text[:MAX_NUMBER], is_mainland=self.national_cn)
        return found if found.isascii() and found.isdecimal() else ""


@dataclass(frozen=True, slots=True)
class TextPaths:
    """Where the parts of a text from a phone stand."""

    id: Path | None
    number: Path
    to: Path | None
    text: Path
    form: TextForm
    national_cn: bool = False

    def read(self, item: object, channel: int) -> Inbound | None:
        """The text; None when it names no number, or has no text member at all."""
        number = phone_of(self.number.text(item)[:MAX_NUMBER], is_mainland=self.national_cn)
        if not number or not self.text.every(item):
            return None
        text = self._decoded(self.text.text(item))
        if text is None:
            return None
        return Inbound(
            channel,
            number,
            readable(self.to.text(item).strip().removeprefix("+") if self.to else "", MAX_NUMBER),
            whole(text),
            carrier_id=carrier_id_of(self.id.text(item) if self.id else ""),
        )

    def _decoded(self, text: str) -> str | None:
        if self.form is TextForm.PLAIN:
            return text
        encoding = "utf-16-be" if self.form is TextForm.HEX_UTF16 else "utf-8"
        try:
            return bytes.fromhex(text).decode(encoding, "replace")
        except ValueError:
            return None


# -- reading the recipe ---------------------------------------------------------------------------

ENVELOPE_NAMES: Final = ("format", "json_field", "items", "only", "answer", "verify")
REPORT_NAMES: Final = ("id", "reference", "number", "state", "error", "states")
TEXT_NAMES: Final = ("id", "number", "to", "text", "text_form")
_VERIFY: Final = ("timestamp", "fresh_s", *signs.SIGNING)


def parse_envelope(section: Section, account: Collection[str]) -> Envelope:
    """Read what receipts and inbound texts have in common; adds to what is wrong."""
    answer = section.inner("answer", ("status", "content_type", "body"))
    said = CallAnswer()
    if answer is not None:
        said = CallAnswer(
            answer.checked("status", checks.integer(200, 299), said.status),
            answer.text("content_type", said.content_type),
            answer.text("body", said.body.decode()).encode("utf-8", "replace"),
        )
    form = section.choice("format", Format, Format.JSON)
    if "json_field" in section and form is Format.JSON:
        section.complain("json_field", "is of a form; say `format: form`")
    return Envelope(
        form,
        section.text("json_field"),
        section.path("items") or Path(()),
        section.test("only"),
        said,
        _proof(section, account),
    )


def _proof(section: Section, account: Collection[str]) -> Proof | None:
    inner = section.inner("verify", _VERIFY)
    if inner is None:
        return None
    inner.need("type", "in")
    kind = inner.raw.get("type")
    if kind == "secret":
        for name in ("algorithm", "encoding", "key", "sign", "timestamp", "fresh_s"):
            if name in inner:
                inner.complain(name, "is of a signature; remove it, or say `type: hmac`")
        value = inner.template("value", account, default="{callback_secret}")
        signs.needs_secret(inner, "value", value)
        return Proof(signs.parse_place(inner), value, None)
    if kind not in ("hmac", "digest"):
        inner.complain("type", "give one of secret, hmac, digest")
        return None
    signing = signs.parse_signing(inner, _CALL_PLACES | set(account), account, prefix=_HEADER)
    stamp = inner.text("timestamp").removeprefix(_HEADER).lower()
    signed = signing.names if signing is not None else frozenset()
    if stamp and stamp not in {name.removeprefix(_HEADER).lower() for name in signed}:
        inner.complain(
            "timestamp",
            "is not signed, so anybody may write another moment there; put {header.…} of it into "
            "`sign`, or remove this",
        )
    fresh_s = inner.checked("fresh_s", checks.seconds(1, 3600), 300.0)
    return Proof(signs.parse_place(inner), None, signing, stamp, fresh_s)


def parse_reports(
    section: Section, *, national_cn: bool, shares_id: bool, needs_whose: bool = True
) -> ReportPaths:
    """Read where a report's parts stand; adds to what is wrong."""
    section.need("state")
    if needs_whose and "id" not in section and "reference" not in section:
        section.complain("id", "is missing; say where the id, or our reference, stands")
    if shares_id and "number" not in section:
        section.complain("number", "is missing; one id stands for a batch, so numbers are needed")
    return ReportPaths(
        section.path("id"),
        section.path("reference"),
        section.path("number"),
        section.path("state") or Path(()),
        section.path("error"),
        section.words("states", REPORT_WORDS, "delivered: DELIVRD"),
        national_cn,
        shares_id,
    )


def parse_texts(section: Section, *, national_cn: bool) -> TextPaths:
    """Read where the parts of a text from a phone stand; adds to what is wrong."""
    section.need("number", "text")
    return TextPaths(
        section.path("id"),
        section.path("number") or Path(()),
        section.path("to"),
        section.path("text") or Path(()),
        section.choice("text_form", TextForm, TextForm.PLAIN),
        national_cn,
    )
