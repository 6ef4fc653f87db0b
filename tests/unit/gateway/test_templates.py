"""Messages and channels that send registered templates only: at the door, chosen, submitted."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.opt_out import with_line, without_line
from compliance.signature import sign, unsigned
from gateway.admit import Refused, Rules, admit, check_defaults
from gateway.api.bodies import Batch, parse_one
from gateway.api.models import SendRequest
from gateway.api.strict import is_clean
from gateway.cutting import cut, joined
from gateway.dispatch import NEWS_S
from gateway.preview import preview
from gateway.references import References
from gateway.routes import Routes
from gateway.settle import forget_text
from sms.config import Channel, Route, Snapshot, Tenant
from sms.model import Carrier, Encoding, Filled, Message, MessageClass, State
from sms.outcomes import Cause, Rejected, Uncertain
from sms.templates import Template, Twin
from tests.support.flow_kit import Kit

NOW = 1_800_000_000.0
OTP, MARKETING = MessageClass.OTP, MessageClass.MARKETING
SHOP, BANK = Tenant(1, "shop", ("某商城",), (86, 1)), Tenant(2, "bank", ("某银行",))
PLAIN, ALI, TEN = 7, 8, 9
CODE = Template(
    1, "code", 0, OTP, "验证码{code}，{minutes}分钟",
    {ALI: Twin("SMS_1", ("code", "minutes")), TEN: Twin("22", ("minutes", "code"))},
)  # fmt: skip
SALE = Template(2, "sale", 1, MARKETING, "全场{off}折", {ALI: Twin("SMS_2", ("off",))})
SYSTEM = Rejected("8", Cause.CHANNEL, "channel.unavailable")
TEXT = "验证码1234，5分钟"


def snapshot(*channels, version=1, templates=(CODE, SALE)):
    known = {
        PLAIN: Channel(PLAIN, "plain", "smpp", {}),
        ALI: Channel(ALI, "ali", "aliyun", {}, demands_template=True),
        TEN: Channel(TEN, "ten", "tencent", {}, demands_template=True),
    }
    return Snapshot(
        version,
        {1: SHOP, 2: BANK},
        channels=known,
        routes=(Route(1, 0, None, None, 0, channels),),
        templates={one.id: one for one in templates},
    )


def ask(rules, tenant=SHOP, **fields):
    return admit(SendRequest(**{"to": "13800138000", **fields}), tenant, rules, NOW)


def taken(rules, tenant=SHOP, **fields):
    message = ask(rules, tenant, **fields)
    assert isinstance(message, Message), message
    return message


def refused(rules, tenant=SHOP, **fields):
    found = ask(rules, tenant, **fields)
    assert isinstance(found, Refused)
    return [(error.pointer, error.code) for error in found.errors]


FREE = Rules(snapshot(PLAIN))
MIXED = Rules(snapshot(PLAIN, ALI))
ONLY = Rules(snapshot(ALI, TEN))
FILLED: dict[str, Any] = {
    "template_id": "tpl_0000000000000001",
    "variables": {"code": "1234", "minutes": "5"},
}


# ---- at the door ----


def test_a_template_is_a_text_with_its_class():
    message = taken(FREE, **FILLED)
    assert message.texts == (f"【某商城】{TEXT}",)
    assert message.message_class is OTP
    assert taken(FREE, message_class=OTP, **FILLED).texts == message.texts


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({"text": "x"}, [("/template_id", "template.beside_text")]),
        ({"message_class": MARKETING}, [("/class", "template.class")]),
        ({"template_id": "tpl_0000000000000009"}, [("/template_id", "template.unknown")]),
        ({"template_id": "tpl_1"}, [("/template_id", "template.unknown")]),
        ({"variables": {"code": "1"}}, [("/variables/minutes", "template.variable_missing")]),
        (
            {"variables": {"code": "", "minutes": "5", "13800138000": "x"}},
            [
                ("/variables/code", "template.variable_value"),
                ("/variables", "template.variable_unknown"),  # a number is not repeated
            ],
        ),
        (
            {"variables": {"code": "【x】", "minutes": "5"}},
            [("/variables", "content.signature_in_text")],
        ),
        (
            {"to": "1", "variables": {"code": "1"}},
            [("/variables/minutes", "template.variable_missing"), ("/to", "recipient.invalid")],
        ),
    ],
)
def test_what_is_wrong_with_a_templated_send_names_its_field(fields, errors):
    assert refused(FREE, **{**FILLED, **fields}) == errors


def test_variables_without_a_template_and_nothing_at_all():
    assert refused(FREE, variables={}) == [("/template_id", "field.missing")]
    assert refused(FREE, text="x", variables={}) == [("/template_id", "template.beside_text")]
    assert refused(FREE) == [("/text", "field.missing")]


def test_another_tenants_template_is_one_that_is_not_there():
    sale = {"template_id": "tpl_0000000000000002", "variables": {"off": "8"}}
    assert taken(FREE, **sale).message_class is MARKETING
    assert refused(FREE, BANK, **sale) == [("/template_id", "template.unknown")]


def test_a_text_of_no_template_is_refused_where_every_channel_needs_one():
    assert refused(ONLY, text="您好", message_class=OTP) == [("/text", "content.no_template")]
    assert taken(ONLY, text=TEXT, message_class=OTP)
    assert refused(ONLY, text=TEXT) == [("/text", "content.no_template")]  # another class
    assert taken(MIXED, text="您好", message_class=OTP)
    assert taken(ONLY, **FILLED)


def test_the_decoder_takes_variables_and_finds_a_name_given_twice():
    body = json.dumps({"to": "13800138000", **FILLED}).encode()
    plain = parse_one(body)[0]
    assert plain.variables == FILLED["variables"]
    assert is_clean(body, plain)  # without the slow way
    entry, errors = parse_one(b'{"to":"1","template_id":"t","variables":{"a":1}}')
    assert [(one.pointer, one.code) for one in errors] == [("/variables/a", "field.type")]
    assert entry.template_id == "t"


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({}, TEXT),
        ({"variables": {"code": "9", "minutes": "5"}}, "验证码9，5分钟"),
        ({"text": "您好", "class": "otp"}, "您好"),
    ],
)
def test_an_entry_of_a_batch_says_its_own_text_or_takes_the_template_of_all(entry, text):
    raw = json.dumps({"to": "13800138000", **entry}).encode()
    defaults = SendRequest(**FILLED)
    assert not check_defaults(defaults, SHOP, FREE)
    request, errors = Batch([raw], defaults, []).entry(0)
    message = admit(request, SHOP, FREE, NOW)
    assert not errors
    assert isinstance(message, Message)
    assert message.texts == (f"【某商城】{text}",)


def test_an_entrys_template_takes_the_place_of_the_text_of_all():
    raw = json.dumps({"to": "13800138000", **FILLED}).encode()
    request, _ = Batch([raw], SendRequest(text="x"), []).entry(0)
    assert request.text is msgspec.UNSET


def test_a_wrong_template_in_the_defaults_fails_the_batch():
    wrong = check_defaults(SendRequest(text="x", template_id="tpl_1"), SHOP, FREE)
    assert [error.code for error in wrong] == ["template.beside_text"]
    wrong = check_defaults(SendRequest(template_id="tpl_1"), SHOP, FREE)
    assert [error.code for error in wrong] == ["template.unknown"]


@pytest.mark.parametrize(
    ("rules", "fields", "channels", "codes"),
    [
        (MIXED, {"text": TEXT, "message_class": OTP}, (PLAIN, ALI), []),
        (MIXED, {"text": "您好", "message_class": OTP}, (PLAIN,), []),
        (MIXED, FILLED, (PLAIN, ALI), []),
        (ONLY, {"text": "您好", "message_class": OTP}, (), ["content.no_template"]),
        (ONLY, FILLED, (ALI, TEN), []),
    ],
)
def test_preview_shows_the_channels_that_take_the_text(rules, fields, channels, codes):
    found = preview(SendRequest(to="13800138000", **fields), SHOP, rules, NOW)
    assert found.channels == channels
    assert [error.code for error in found.refusals] == codes
    assert found.message_class is OTP
    assert (found.final_text or "").startswith("【某商城】")


# ---- chosen ----


def routes(*channels, **fields):
    made = Routes()
    made.use(snapshot(*channels, **fields))
    return made


def test_a_message_takes_the_channels_that_have_its_text():
    assert routes(PLAIN, ALI, TEN).of(taken(MIXED, text="您好")) == (PLAIN,)
    assert routes(PLAIN, ALI, TEN).of(taken(MIXED, **FILLED)) == (PLAIN, ALI, TEN)
    sale = taken(MIXED, text="全场8折", message_class=MARKETING)
    assert routes(PLAIN, ALI, TEN).of(sale) == (PLAIN, ALI)  # its opt-out line stands behind


def test_what_was_found_holds_when_the_text_is_dropped():
    message = taken(MIXED, **FILLED)
    known = routes(PLAIN, ALI)
    assert known.of(message) == (PLAIN, ALI)
    forget_text(message)
    assert known.of(message) == (PLAIN, ALI)
    known.use(snapshot(PLAIN, ALI, TEN, version=2))
    assert known.of(message) == (PLAIN, ALI)  # of the new one nobody knows
    other = taken(MIXED, **FILLED)
    forget_text(other)  # never chosen here
    assert known.of(other) == (PLAIN,)


def test_a_new_configuration_is_asked_anew():
    message = taken(MIXED, **FILLED)
    known = routes(PLAIN, ALI)
    assert known.of(message) == (PLAIN, ALI)
    known.use(snapshot(PLAIN, ALI, version=2, templates=()))
    assert known.of(message) == (PLAIN,)


def test_a_route_without_such_channels_never_looks_at_the_text():
    message = taken(FREE, **FILLED)
    assert routes(PLAIN).of(message) == (PLAIN,)
    assert message.takers is None


def test_what_waits_beyond_memory_has_a_choice_for_each_text():
    found = snapshot(PLAIN, ALI, TEN).choices(OTP)
    known = routes(PLAIN, ALI, TEN)
    assert known.of(taken(MIXED, text="您好")) in found
    assert known.of(taken(MIXED, **FILLED)) in found
    assert known.channels_for(1, OTP, Carrier.CM, 86) in found
    assert snapshot(PLAIN).choices(OTP) == {(PLAIN,)}


# ---- submitted ----


def submits(message, number, **fields):
    known = snapshot(number, **fields)
    return cut(message, known.channels[number], References(0), NOW, known.book)


def test_a_submit_carries_the_vendors_code_and_the_values_in_its_order():
    message = taken(FREE, **FILLED)
    [submit] = submits(message, ALI)
    assert submit.filled == Filled("SMS_1", (("code", "1234"), ("minutes", "5")))
    [submit] = submits(message, TEN)
    assert submit.filled == Filled("22", (("minutes", "5"), ("code", "1234")))
    [submit] = submits(message, PLAIN)
    assert submit.filled is None
    [submit] = submits(taken(MIXED, text="您好"), ALI)
    assert submit.filled is None


def test_a_long_text_that_leaves_whole_carries_it_too():
    values = {"code": "1" * 100, "minutes": "5"}
    message = taken(FREE, template_id="tpl_0000000000000001", variables=values)
    parts = submits(message, ALI)
    assert len(parts) == 2
    channel = snapshot(ALI).channels[ALI]
    whole = joined(parts, channel)
    assert whole.filled == parts[0].filled == parts[1].filled
    assert whole.filled is not None
    assert dict(whole.filled.values) == values


# ---- on its way ----


def kit(*demanding, window=16):
    """Channels 1 and 2, those named send the template only."""
    made = Kit(channels=2, window=window)
    for number in demanding:
        runtime = made.dispatcher.channels[number]
        runtime.config = replace(runtime.config, demands_template=True)
    configure(made, {number: Twin(f"SMS_{number}", ("code", "minutes")) for number in demanding})
    return made


def configure(made, twins):
    known = made.dispatcher.snapshot
    made.dispatcher.reconfigure(
        replace(
            known,
            version=known.version + 1,
            channels={
                number: runtime.config for number, runtime in made.dispatcher.channels.items()
            },
            templates={1: replace(CODE, twins=twins)},
        )
    )


def on_its_way(made, text):
    message = made.message(OTP, texts=(f"【某商城】{text}",))
    message.encoding = Encoding.UCS2
    return message


def goes_on(made):
    made.events.flush()
    made.clock.now += 2.0
    made.dispatcher.tick()
    made.events.flush()


def test_a_free_text_skips_a_channel_that_sends_templates_only():
    made = kit(1)
    message = on_its_way(made, "您好")
    made.accept(message)
    assert [len(made.channels[number].seen) for number in (1, 2)] == [0, 1]
    assert not made.dispatcher.has_other(message, 2)
    made.answer(2, SYSTEM)
    goes_on(made)
    assert message.state is State.FAILED
    assert not made.channels[1].seen


def test_a_template_fails_over_between_vendors_and_free_channels():
    made = kit(1)
    message = on_its_way(made, TEXT)
    made.accept(message)
    assert made.channels[1].seen[0].filled == Filled("SMS_1", (("code", "1234"), ("minutes", "5")))
    made.answer(1, SYSTEM)
    goes_on(made)
    assert [submit.filled for submit in made.channels[2].seen] == [None]
    assert made.channels[2].seen[0].payload.decode("utf-16-be") == f"【某商城】{TEXT}"


def test_a_free_text_without_a_channel_up_waits_and_is_not_failed():
    made = kit(1)
    made.dispatcher.link_changed(2, is_up=False)
    message = on_its_way(made, "您好")
    made.accept(message)
    assert made.lanes.lane(0).size() == 1
    made.dispatcher.link_changed(2, is_up=True)
    made.events.flush()
    assert [submit.message for submit in made.channels[2].seen] == [message]


def test_the_second_copy_goes_only_where_its_text_can():
    for text, copies in (("您好", [1, 1]), (TEXT, [1, 2])):
        made = kit(2)
        message = on_its_way(made, text)
        made.accept(message)
        made.answer(1, Uncertain("channel.timeout"))
        made.events.flush()
        made.clock.now += 9.0
        made.evidence.due(message)
        made.events.flush()
        seen = [
            number
            for number in (1, 2)
            for submit in made.channels[number].seen
            if submit.message is message
        ]
        assert seen == copies


def test_a_process_that_has_not_read_the_template_yet_waits_for_it():
    made = kit(1, 2)
    configure(made, {})  # older than what its acceptor goes by
    message = on_its_way(made, TEXT)
    made.accept(message)
    goes_on(made)
    assert (message.state, made.dispatcher.delayed_ids()) == (State.ACCEPTED, [message.id])
    twin = Twin("SMS_9", ("code", "minutes"))
    configure(made, {1: twin, 2: twin})
    goes_on(made)
    assert [submit.filled.code for submit in made.channels[1].seen] == ["SMS_9"]


@pytest.mark.parametrize("is_scheduled", [False, True])
def test_a_text_that_nobody_has_a_while_after_it_was_to_go_has_failed(is_scheduled):
    made = kit(1, 2)
    configure(made, {})
    message = on_its_way(made, TEXT)
    if is_scheduled:
        message.send_at = message.created_at
        message.created_at -= 3600.0
    made.dispatcher.put_adopted([message])
    goes_on(made)
    assert message.state is State.ACCEPTED
    made.clock.now += NEWS_S
    goes_on(made)
    assert (message.state, message.reason) == (State.FAILED, "channel.unavailable")
    assert made.dispatcher.delayed_ids() == []


def test_what_waits_for_a_vendor_moves_when_its_template_goes():
    made = kit(1, window=8)
    messages = [on_its_way(made, TEXT) for _ in range(20)]
    made.accept(*messages)
    waiting = made.lanes.lane(1).size()
    assert waiting
    configure(made, {})
    made.events.flush()
    assert not made.lanes.lane(1).size()
    assert len(made.channels[2].seen) + made.lanes.lane(2).size() == waiting


def test_a_message_that_is_read_back_is_known_by_its_text_alone():
    made = kit(1)
    message = on_its_way(made, TEXT)
    made.accept(message)
    again = on_its_way(made, TEXT)  # nothing but what is stored
    assert made.dispatcher.routes.of(again) == made.dispatcher.routes.of(message) == (1, 2)


names = st.text("ab商城", min_size=1, max_size=6)
bodies = st.text("ab 8折]", min_size=1).filter(lambda text: not text.isspace())


@given(bodies, st.sampled_from(["", "拒收请回复R", "STOP ends"]), names, st.booleans())
def test_what_was_put_round_a_text_comes_off_again(body, line, brand, is_mainland):
    country = 86 if is_mainland else 1
    signed = sign(with_line(body, line), brand, country)
    bare = without_line(unsigned(signed, country), line)
    assert bare == body or body.rstrip().endswith(line)
