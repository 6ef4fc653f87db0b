"""The judge of the table of faults: what it finds in made-up records."""

import json
from datetime import UTC, datetime

import pytest

from loadtest.faults import judging
from loadtest.faults.row import FAULT, HEALED
from loadtest.faults.rows import ROWS
from loadtest.faults.senders import RANGE, Sent, class_of
from loadtest.faults.stage import PROTOCOLS, REFUSALS, Moment
from loadtest.faults.story import judge
from loadtest.faults.trace import Trace
from loadtest.linkfault import LinkFault

START = 1_790_000_000.0
OTP, TRANSACTIONAL, MARKETING = 0, RANGE, 2 * RANGE


def stamp(at):
    return datetime.fromtimestamp(START + at, UTC).isoformat().replace("+00:00", "Z")


class Records:
    """Records of a run of twenty seconds, put together message by message."""

    def __init__(self):
        self.sent = {}
        self.carriers: list[list[tuple[float, bytes]]] = [[], [], [], []]
        self.events = []
        self.log = []
        self.up_at = 16.0

    def message(self, index, at, *copies, ends="delivered", reason=None, marked=False):
        """Accepted at `at`; `copies` are (at, place) or (at, place, status)."""
        self.sent[index] = START + at
        for moment, place, *status in copies:
            row = {"at": stamp(moment), "to": f"86138{index:08d}", "status": sum(status)}
            self.carriers[place].append((moment, json.dumps(row).encode()))
        for kind in ends.split():
            data = {"to": f"+86138{index:08d}", "status": kind, "duplicate_risk": marked}
            event = {"type": f"message.{kind}", "timestamp": stamp(at + 1)}
            self.events.append(json.dumps({**event, "data": {**data, "reason": reason}}).encode())

    def moved(self, at, state, *, carrier="CM", why="", channel="smpp-1"):
        words = {"event": f"channel {state}", "at": stamp(at), "channel": channel}
        self.log.append(json.dumps({**words, "carrier": carrier, "state": state, "why": why}))

    def seen(self, *, fault=5.0, healed=15.0, rate=0.0):
        trace = Trace(self.sent)
        for place, rows in enumerate(self.carriers):
            trace.read_carrier(place, (row for _, row in sorted(rows)))
        trace.sort()
        trace.read_sink(self.events)
        link = {"event": "link changed", "at": stamp(self.up_at), "channel": "smpp-1"}
        trace.read_log([*self.log, json.dumps({**link, "is_up": True})])
        moments = [Moment(START + fault, FAULT), Moment(START + healed, HEALED)]
        sent = Sent(self.sent, {}, 0)
        return judging.Seen("smpp", rate, 20.0, START, sent, trace, moments, {})

    def failed(self, row="reset", **how):
        return [check.name for check in judge(ROWS[row], self.seen(**how)).checks if wrong(check)]


def wrong(check):
    return check.is_good is False


@pytest.fixture
def records():
    """A fault at 5 s after which a backup takes everything."""
    made = Records()
    made.message(OTP, 1.0, (1.02, 0))
    made.message(OTP + 1, 5.1, (5.2, 1))
    made.message(TRANSACTIONAL, 6.0, (6.1, 1))
    return made


def test_a_run_as_it_should_be_passes(records):
    assert records.failed() == []
    assert judge(ROWS["reset"], records.seen()).is_good


def test_a_message_that_never_ends_is_lost(records):
    records.message(OTP + 2, 7.0, (7.1, 1), ends="submitted")
    assert records.failed() == ["lost: accepted, and nobody knows what became of it"]
    assert records.failed("receipts")[-1:] != [
        "lost: accepted, and nobody knows what became of it"
    ]  # there a carrier's silence is the fault itself


def test_a_second_copy_must_be_marked_and_the_only_one(records):
    records.message(OTP + 2, 7.0, (7.1, 0), (8.0, 1))
    assert records.failed() == ["unmarked duplicates"]
    marked = Records()
    marked.message(OTP, 5.5, (5.6, 1))
    marked.message(OTP + 1, 7.0, (7.1, 0), (8.0, 1), marked=True)
    assert marked.failed() == []
    marked.message(OTP + 2, 7.0, (7.1, 0), (8.0, 1), (8.5, 2), marked=True)
    assert marked.failed() == ["more than one second copy"]


def test_a_refused_submit_is_no_copy(records):
    records.message(OTP + 2, 7.0, (7.1, 0, 8), (8.0, 1))
    assert records.failed() == []


def test_a_late_backup_and_a_wait_behind_the_dead_link_are_seen():
    late = Records()
    late.message(OTP, 5.1, (8.6, 1))
    assert late.failed() == [
        "first success on a backup after",
        "longest wait for a submit, what was in flight aside",
    ]


def test_a_link_that_is_up_again_must_be_used_soon(records):
    records.up_at = 15.0 + judging.LINK_LIMIT_S + 0.5
    assert records.failed() == ["a session after the link is up again"]
    records.up_at = 14.0  # before it was mended
    assert records.failed() == ["a session after the link is up again"]


def test_what_was_in_flight_follows_its_class(records):
    records.message(MARKETING, 4.9, (4.95, 0), ends="uncertain")
    records.message(OTP + 3, 4.9, (4.95, 0), (13.0, 1), ends="uncertain delivered", marked=True)
    assert records.failed() == []
    records.message(MARKETING + 1, 4.9, (4.9, 0), (9.0, 1), ends="uncertain", marked=True)
    assert records.failed() == ["in flight and not by their class's policy"]


def test_an_end_that_is_no_delivery_is_named(records):
    records.message(OTP + 4, 6.0, ends="failed", reason="channel.unavailable")
    checks = judge(ROWS["reset"], records.seen()).checks
    assert [check.value for check in checks if wrong(check)] == ["1 failed channel.unavailable"]


def test_too_little_traffic_is_seen(records):
    assert records.failed(rate=500.0) == ["accepted a second"]


def test_when_the_primary_is_left_is_told_by_class():
    hang = Records()
    for second in range(20):
        otp_place = 1 if second >= 9 else 0
        hang.message(OTP + second, second, (second + 0.1, otp_place))
        place = 1 if second >= 12 else 0
        hang.message(TRANSACTIONAL + second, second, (second + 0.1, place))
    trace = hang.seen().trace
    assert trace.left_after_s(START + 5, START + 20, "otp") == 4.0
    assert trace.left_after_s(START + 5, START + 20) == 7.0
    assert trace.left_after_s(START + 5, START + 11) is None


def test_switches_are_counted_away_and_back_of_the_unluckiest_carrier():
    flapping = Records()
    for at, state in enumerate(("open", "half_open", "ramp", "open", "half_open", "open")):
        flapping.moved(at, state)
    flapping.moved(7, "open", carrier="CU")
    flapping.moved(7, "open", carrier="CU", channel="smpp-2")
    flapping.moved(8, "open", carrier="all")
    assert flapping.seen().trace.switches("smpp-1") == 3 + 1


def test_a_ramp_that_takes_too_much_is_seen():
    for places, is_good in (((1,) * 10, True), ((0,) * 10, False)):
        climbing = Records()
        climbing.moved(5, "ramp", why="it takes 1%")
        climbing.moved(8, "ramp", why="it takes 10%")
        climbing.moved(9, "closed")
        for step, place in enumerate(places):
            at = 5.5 + step / 5
            climbing.message(TRANSACTIONAL + 4 * step, at, (at + 0.01, place))
        first, second, last = judging.ramp(climbing.seen(), (0.01, 0.1, 0.5, 1.0))
        assert first.is_good is is_good
        assert second.value == "never seen" or second.is_good is is_good
        assert (last.value, last.is_good) == ("never seen", False)


def test_a_number_that_was_refused_goes_nowhere_else():
    refused = Records()
    codes = REFUSALS["smpp"]
    reasons = ("recipient.invalid", "recipient.blocked", "content.blocked")
    for step, (code, reason) in enumerate(zip(codes, reasons, strict=True)):
        for place in range(30):
            index = TRANSACTIONAL + 100 * step + place
            refused.message(index, 6.0, (6.1, 0, code), ends="failed", reason=reason)
    assert refused.failed("refused") == []
    refused.message(OTP, 6.0, (6.1, 0, codes[0]), (6.5, 1), ends="delivered")
    assert refused.failed("refused") == [
        "number that does not exist: sent to a second channel",
        "number that does not exist: ended otherwise than failed, recipient.invalid",
    ]


def test_throttling_is_judged_by_what_the_carrier_took():
    throttled = Records()
    number = iter(range(100_000))
    for second in range(40):
        for part in range(240):
            index, at = TRANSACTIONAL + next(number), second + part / 240
            throttled.message(index, at, (at, 0))
    assert throttled.failed("throttle", fault=5.0, healed=40.0) == []
    for part in range(1200):
        index, at = OTP + part, 16 + part / 60
        throttled.message(index, at, (at, 0, 0x58), (at + 0.1, 1))
    failed = throttled.failed("throttle", fault=5.0, healed=40.0)
    assert failed == ["throttled share after 10 s"]


def test_what_was_held_leaves_by_class_and_age():
    def dark(order):
        made = Records()
        for place, name in enumerate(order):
            for part in range(50):
                leaves = 15.1 + place + part / 60
                made.message(name + part, 6 + part / 10, (leaves, 0))
        return made.failed("dark")

    assert dark((OTP, TRANSACTIONAL, MARKETING)) == []
    assert dark((TRANSACTIONAL, OTP, MARKETING)) == [
        "otp leaves before transactional, busiest channel"
    ]


def canary_at(until):
    """One in twenty goes to the candidate, up to a moment."""
    made = Records()
    for step in range(800):
        at = step / 10
        place = 1 if step % 20 == 0 and 5 < at < until else 0
        made.message(TRANSACTIONAL + step, at, (at, place))
    return made.failed("canary", fault=5.0, healed=80.0)


def test_a_bad_canary_is_back_at_nothing_in_time():
    assert canary_at(65) == []
    assert canary_at(79) == ["the last message went to the candidate after"]
    assert canary_at(4) == [
        "share of the candidate until then",
        "the last message went to the candidate after",
    ]


def test_classes_are_told_by_the_index_and_every_protocol_has_its_words():
    assert [class_of(index) for index in (OTP, TRANSACTIONAL + 5, MARKETING)] == [
        *("otp", "transactional", "marketing"),
    ]
    assert PROTOCOLS.keys() == REFUSALS.keys()
    assert LinkFault().shown()["door"] == "open"
