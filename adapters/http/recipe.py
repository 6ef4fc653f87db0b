"""Protocol `http`: any provider with an HTTP API, described by its channel's configuration alone.

    recipe.py            the vendor, its validation with examples, and the rehearsal
    recipe_settings.py   its parts                    recipe_section.py   reading one
    recipe_examples.py   its examples, tried
    recipe_template.py   {number} and its filters     recipe_values.py    what the places stand for
    recipe_request.py    a request                    recipe_sign.py      signatures, both ways
    recipe_tree.py       paths and tests              recipe_answer.py    answers → outcomes
    recipe_slips.py      what can be read and is wrong
    recipe_callback.py   pushes → reports and texts   recipe_query.py     what became of a message

Nothing of a recipe is executed: templates are joined, paths walked, tests compared.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from adapters.http import recipe_slips as slips
from adapters.http import settings
from adapters.http.callback import SECRET, address_of, require_secret
from adapters.http.recipe_examples import find_wrong_examples, sample
from adapters.http.recipe_request import EACH, joined
from adapters.http.recipe_section import Wrong
from adapters.http.recipe_settings import Recipe, outer_wrong, read_recipe
from adapters.http.recipe_tree import read_body
from adapters.http.recipe_values import HIDDEN, MESSAGE, of_asked, of_request, of_submit
from adapters.http.vendor import (
    Asked,
    Call,
    CallAnswer,
    CallKind,
    Pushed,
    Reply,
    Request,
    Told,
    Traits,
)
from sms import config
from sms.errors import CallRefused, CannotSend, ConfigError, RemoteProtocolError
from sms.model import Inbound, Report, Submit
from sms.outcomes import Outcome

TRAITS: Final = Traits()  # what every recipe can; a channel's own stand in `HttpRecipe.traits`
LOGIN: Final = "account"
_REHEARSED_AT: Final = 1_767_225_600.0  # 2026-01-01T00:00:00Z
_REHEARSED_ID: Final = "ID-OF-THE-PROVIDER"
_REHEARSED_NONCE: Final = "0123456789abcdef0123456789abcdef"


class HttpRecipe:
    """One account at one provider (`adapters.http.vendor.Vendor`)."""

    def __init__(self, recipe: Recipe, own: settings.HttpSettings, channel: int) -> None:
        sending = recipe.sending
        self.traits = Traits(
            batch=min(sending.batch, own.max_batch),
            demands_template="template_code" in sending.names and "text" not in sending.names,
            asks=recipe.question is not None and recipe.tellings is not None,
            pulls=bool(recipe.pulls),
            shows_secret=all(one.proof is None for one in recipe.envelopes.values()),
            absent_after_s=own.absent_after_s,
        )
        first = sending.plan.url.parts[0] if sending.plan.url.parts else ""
        self.endpoint = first if isinstance(first, str) else ""
        self._recipe = recipe
        self.shares_id = recipe.answers.shares_id  # its id has a mark of the number behind it
        self._channel = channel
        self._own = own
        self._fixed = {
            **recipe.account.values,
            "callback_url": address_of(own, channel, CallKind.RECEIPTS),
            "inbound_url": address_of(own, channel, CallKind.INBOUND),
        }
        self._shared = sorted(sending.plan.names & MESSAGE)  # equal in all of one request
        self._is_shown = True

    def together(self, submit: Submit) -> Hashable:
        """What stands outside `each` must be equal."""
        values = of_submit(submit, self._shared, self._recipe.sending.encoding_words)
        return tuple(values[name] for name in self._shared)

    def send(self, submits: Sequence[Submit], unix: float, nonce: str) -> Request:
        """The request for these; CannotSend when one cannot be said."""
        sending = self._recipe.sending
        if self.traits.demands_template and any(submit.filled is None for submit in submits):
            raise CannotSend("template", "content.template", is_channel=True)
        values = {
            **self._fixed,
            **of_request(unix, nonce),
            **of_submit(submits[0], sending.plan.names, sending.encoding_words),
        }
        items: list[object] = []
        if sending.each is not None:
            words = sending.encoding_words
            items = [
                sending.each({**values, **of_submit(submit, sending.each_names, words)})
                for submit in submits
            ]
            values[EACH] = joined(items, sending.joint)
        return sending.plan.build(values, items, is_shown=self._is_shown)

    def read(self, submits: Sequence[Submit], reply: Reply) -> Sequence[Outcome | None]:
        """One outcome per submit, in order; never raises."""
        return self._recipe.answers.read(submits, reply)

    def question(self, asked: Sequence[Asked], unix: float, nonce: str) -> Request:
        """Ask about one; CannotSend when the provider's id is needed and not known."""
        plan, tellings, one = self._recipe.question, self._recipe.tellings, asked[0]
        if plan is None or tellings is None or ("carrier_id" in plan.names and not one.carrier_id):
            raise CannotSend("query", "channel.misconfigured", is_channel=True)
        one = replace(one, carrier_id=tellings.provider_id(one))
        values = {**self._fixed, **of_request(unix, nonce), **of_asked(one, plan.names)}
        return plan.build(values, is_shown=self._is_shown)

    def told(self, asked: Sequence[Asked], reply: Reply) -> list[Told]:
        """One answer per question, in order; never raises."""
        tellings = self._recipe.tellings
        return [tellings.read(one, reply) for one in asked] if tellings is not None else []

    def pull(self, kind: CallKind, unix: float, nonce: str) -> Request | None:
        """Ask for what was not pushed; None where this kind is not pulled."""
        pulling = self._recipe.pulls.get(kind)
        if pulling is None:
            return None
        values = {**self._fixed, **of_request(unix, nonce)}
        return pulling.plan.build(values, is_shown=self._is_shown)

    def pulled(self, kind: CallKind, reply: Reply) -> Pushed:
        """What a pull brought; RemoteProtocolError when it cannot be read."""
        pulling = self._recipe.pulls.get(kind)
        if pulling is None or reply.status // 100 != 2:
            raise RemoteProtocolError("a pull was answered with an error")
        items = pulling.envelope.pick(read_body(reply.body, pulling.envelope.form))
        return self._brought(kind, items, pulling.envelope.answer)

    def pushed(self, call: Call) -> Pushed:
        """What a push brought; CallRefused when it is not the provider's or unreadable."""
        kinds = list(CallKind) if self._recipe.one_callback else [call.kind]
        found = Pushed()
        for kind in kinds:
            envelope = self._recipe.envelopes.get(kind)
            if envelope is None:
                if len(kinds) == 1:
                    raise CallRefused(403, f"this channel takes no {kind.value} by callback")
                continue
            if envelope.proof is None:
                require_secret(self._own, call)
            items = envelope.open(call, self._recipe.account.values)
            brought = self._brought(kind, items, envelope.answer)
            if items and not (brought.reports or brought.texts):
                raise CallRefused(400, f"nothing in it can be read as {kind.value}")
            answer = brought.answer if kind is call.kind else found.answer
            found = Pushed(found.reports + brought.reports, found.texts + brought.texts, answer)
        return found

    def _brought(self, kind: CallKind, items: Sequence[object], answer: CallAnswer) -> Pushed:
        reports: list[Report] = []
        texts: list[Inbound] = []
        paths, places = self._recipe.reports, self._recipe.texts
        for item in items:
            if kind is CallKind.RECEIPTS and paths is not None:
                report = paths.read(item, self._channel)
                reports.extend((report,) if report is not None else ())
            elif kind is CallKind.INBOUND and places is not None:
                text = places.read(item, self._channel)
                texts.extend((text,) if text is not None else ())
        return Pushed(tuple(reports), tuple(texts), answer)

    def hidden(self) -> HttpRecipe:
        """The same with its secrets as asterisks, to be shown."""
        other = object.__new__(HttpRecipe)
        other.__dict__.update(self.__dict__)
        other._fixed = {**self._fixed, **self._recipe.account.hidden()}
        other._fixed |= {
            name: self._fixed[name].partition("?")[0] + f"?{SECRET}={HIDDEN}"
            for name in ("callback_url", "inbound_url")
            if "?" in self._fixed[name]
        }
        other._is_shown = False
        return other


def validate(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    """Everything wrong with a recipe: (JSON pointer, what to do); its examples are tried, too."""
    wrong: Wrong = outer_wrong(raw)
    recipe = read_recipe(raw, 0, wrong)
    wrong += slips.find_slips(raw)
    if not wrong:  # these are not to be told of a recipe that was not read to its end
        wrong += slips.find_missing(recipe.sending.names, has_each=recipe.sending.each is not None)
        wrong += slips.find_unused(recipe.account.given, recipe.used)
    if wrong:
        return list(dict.fromkeys(wrong))
    vendor = HttpRecipe(recipe, settings.parse(raw), 0)
    try:
        for count in (1, min(vendor.traits.batch, 3)):
            vendor.send(sample(count), _REHEARSED_AT, _REHEARSED_NONCE)
    except CannotSend:
        wrong.append(("/send", "cannot be built for a sample message; look at its headers"))
    return wrong + find_wrong_examples(raw, recipe, vendor.read)


def make(channel: config.Channel) -> HttpRecipe:
    """The vendor of a channel; ConfigError names the first thing that is wrong."""
    raw: Mapping[str, Any] = channel.settings
    wrong: Wrong = outer_wrong(raw)
    recipe = read_recipe(raw, channel.id, wrong)
    if wrong:
        pointer, detail = wrong[0]
        raise ConfigError(f"http setting {pointer}: {detail}")
    return HttpRecipe(recipe, settings.parse(raw), channel.id)


def rehearse(raw: Mapping[str, object], sender: str = "") -> list[str]:
    """The requests of a recipe for sample messages, line by line; secrets are asterisks.

    The settings must be without fault (`validate`); a place for a header that cannot hold its value
    is said instead of the request. `sender` is the channel's.
    """
    channel = config.Channel(0, "channel", "http", raw)
    vendor = make(channel).hidden()
    submits = [replace(one, sender=sender) for one in sample(min(vendor.traits.batch, 2))]
    lines = ["# send", *_shown(vendor.send(submits, _REHEARSED_AT, _REHEARSED_NONCE))]
    if vendor.traits.asks:
        shown_id = f"{_REHEARSED_ID}.00000000" if vendor.shares_id else _REHEARSED_ID
        asked = Asked(submits[0], _REHEARSED_AT, shown_id)
        lines += ["# query", *_shown(vendor.question([asked], _REHEARSED_AT, _REHEARSED_NONCE))]
    for kind in CallKind:
        request = vendor.pull(kind, _REHEARSED_AT, _REHEARSED_NONCE)
        if request is not None:
            lines += [f"# pull {kind.value}", *_shown(request)]
    return lines


def _shown(request: Request) -> list[str]:
    body = request.body.decode("utf-8", "replace")
    return [
        f"{request.method} {request.url}",
        *(f"{name}: {value}" for name, value in request.headers),
        *(["", *body.splitlines()] if body else []),
        "",
    ]
