"""What a worker lacks, and when a change of readiness is told."""

from gateway.readiness import lacking
from gateway.supervisor import Readiness
from sms.config import AdminState, Channel, Route, Snapshot


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
        "route 4: none of its channels has a session "
        "(c1: paused by an operator; c2: draining by an operator; c3: why 3)"
    )
