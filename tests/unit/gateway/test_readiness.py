"""When a change of readiness is told."""

from gateway.supervisor import Readiness


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
