"""What a worker lacks, and when a change of readiness is told."""

from gateway.readiness import NO_SESSION, fold, lacking, route_words
from gateway.supervisor import Readiness
from sms.config import AdminState, Channel, Route, Snapshot
from sms.model import Carrier, MessageClass


def test_being_ready_and_its_end_are_told_at_once_and_once():
    readiness = Readiness()
    assert readiness.is_news([], 0.0)
    assert not readiness.is_news([], 1.0)
    assert readiness.is_news(["worker"], 2.0)
    assert not readiness.is_news(["worker"], 20.0)
    assert readiness.is_news([], 21.0)


def test_another_cause_is_told_once_it_has_lasted():
    readiness = Readiness()
    assert not readiness.is_news(["worker"], 0.0)
    assert not readiness.is_news(["route 1: still connecting"], 1.0)
    assert not readiness.is_news(["route 1: bind refused"], 1.5)
    assert not readiness.is_news(["route 1: bind refused"], 3.4)
    assert readiness.is_news(["route 1: bind refused"], 3.5)
    assert not readiness.is_news(["route 1: bind refused"], 60.0)


def test_a_route_is_told_as_the_file_says_it():
    one = Route(6, 1, MessageClass.OTP, Carrier.CM, 86, (7,))
    assert route_words(one) == "ten_0000000000000001/otp/CM/86"
    assert route_words(Route(6, 0, None, None, 0, (7,))) == "*/*/*/*"


def test_what_workers_say_of_a_named_route_is_folded():
    head = f"route {route_words(Route(6, 0, None, None, 0, (7,)))}: none of its channels"
    assert fold([f"{head} (a: {NO_SESSION})", f"{head} (a: refused)"]) == [f"{head} (a: refused)"]


def lacks(up, **states):
    """What is told of one route over three channels, of which some are up."""
    channels = {
        number: Channel(
            number,
            f"c{number}",
            "smpp",
            {},
            admin_state=AdminState(states.get(f"c{number}", "active")),
        )
        for number in (1, 2, 3)
    }
    known = Snapshot(1, channels=channels, routes=(Route(4, 0, None, None, 0, (1, 2, 3)),))
    return lacking(known, lambda number: number in up, lambda number: f"why {number}")


def test_a_route_lacks_a_session_only_where_somebody_wants_one():
    assert lacks({3}) == []
    assert lacks({3}, c1="paused", c2="draining") == []
    assert lacks(set(), c1="paused", c2="draining", c3="paused") == []
    [told] = lacks(set(), c1="paused", c2="draining")
    assert told == (
        "route */*/*/*: none of its channels has a session "
        "(c1: paused by an operator; c2: draining by an operator; c3: why 3)"
    )
