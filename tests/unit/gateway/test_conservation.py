"""When two readings of the conservation law agree, and what they then say."""

from __future__ import annotations

from copy import deepcopy

from hypothesis import given
from hypothesis import strategies as st

from gateway.conservation import residuals
from gateway.ledger import ENDS, MOVES, tally
from receipts.state import Path, advance
from sms.model import FINAL_STATES, EventRow, State
from store.conservation import SUBMITTED_PATHS, Reading, Said
from store.read import RESTING_PATHS


def one(**terms: object) -> Reading:
    """A reading of one tenant (7) of process 1, alive, that spoke at 1000."""
    said = terms.pop("said", {1: Said(opened=10, held=10)})
    counted = terms.pop("counted", {1: 10})
    found = Reading(alive={1: 3}, spoke={1: 1000}, said={7: said}, counted={7: counted})  # type: ignore[dict-item]
    for name, value in terms.items():
        setattr(found, name, value)
    return found


def later(reading: Reading, **terms: object) -> Reading:
    """The same ten seconds later, everybody having spoken again."""
    found = deepcopy(reading)
    found.spoke = {process: at + 10_000 for process, at in reading.spoke.items()}
    for name, value in terms.items():
        setattr(found, name, value)
    return found


def test_nothing_is_missing_when_the_terms_add_up() -> None:
    reading = one(said={1: Said(10, 4)}, parked={7: 5}, handed={7: 1})
    assert residuals(reading, later(reading)) == {}


def test_a_message_that_nobody_holds_is_missing() -> None:
    reading = one(said={1: Said(10, 9)})
    assert residuals(reading, later(reading)) == {7: 1}


def test_it_is_seen_under_traffic_too() -> None:
    """opened and held move with every message; their difference does not."""
    before = one(said={1: Said(500, 499)}, counted={1: 512})
    now = later(before, said={7: {1: Said(730, 729)}}, counted={7: {1: 718}})
    assert residuals(before, now) == {7: 1}


def test_traffic_alone_is_no_residual() -> None:
    before = one(said={1: Said(500, 500)}, counted={1: 512})
    now = later(before, said={7: {1: Said(730, 730)}}, counted={7: {1: 718}})
    assert residuals(before, now) == {}


def test_one_reading_is_not_believed() -> None:
    """A message parked between what its owner said and what the reading saw."""
    before = one(said={1: Said(10, 10)}, parked={7: 1})
    now = later(before, said={7: {1: Said(10, 9)}})
    assert residuals(before, now) == {}


def test_what_moves_between_processes_is_judged_once_it_rests() -> None:
    before = one(said={1: Said(100, 60), 2: Said(-30, 0)}, counted={1: 100, 2: -30})
    before.alive, before.spoke = {1: 1, 2: 1}, {1: 1000, 2: 1000}
    terms = {1: Said(100, 50), 2: Said(-40, 0)}
    moving = later(before, said={7: terms}, counted={7: {1: 100, 2: -40}})
    assert residuals(before, moving) == {}
    assert residuals(moving, later(moving)) == {7: 10}


def test_what_the_flushes_counted_decides_at_rest() -> None:
    """An owner that forgot to count a commit of its own must not hide a loss by it."""
    reading = one(said={1: Said(9, 9)}, counted={1: 10})
    assert residuals(reading, later(reading)) == {7: 1}


def test_a_number_without_an_owner_is_counted_by_its_deltas() -> None:
    reading = one(said={1: Said(-40, 0)}, counted={1: -40, 5: 40})
    assert residuals(reading, later(reading)) == {}
    reading = one(said={1: Said(-39, 0)}, counted={1: -39, 5: 40})
    assert residuals(reading, later(reading)) == {7: 1}


def test_owners_that_came_went_or_were_silent_are_not_judged() -> None:
    reading = one()
    assert residuals(reading, deepcopy(reading)) is None  # nobody spoke in between
    assert residuals(reading, later(reading, alive={1: 4})) is None  # a new life
    assert residuals(reading, later(reading, alive={})) is None
    two = later(reading, alive={1: 3, 2: 1})
    assert residuals(two, later(two)) is None  # process 2 has not said anything yet
    dead = one(alive={2: 1}, spoke={1: 1000, 2: 1000})
    assert residuals(dead, later(dead)) is None  # what a dead one held is being taken up


# -- what a row counts ----------------------------------------------------------------------


def row(path: int, previous: State | None, tenant: int = 7) -> EventRow:
    return EventRow(1, 2, 3, tenant, path, State.QUEUED, 0.0, previous=previous)


def test_each_step_of_an_ordinary_life() -> None:
    assert tally([row(Path.SUBMITTED, State.SUBMITTING)]) == {7: (1, 0)}
    assert tally([row(Path.DELIVERED, State.SUBMITTED)]) == {7: (-1, 1)}
    assert tally([row(Path.QUEUED, State.SUBMITTED)]) == {7: (-1, 0)}  # transition 17
    assert tally([row(Path.EXPIRED, State.ACCEPTED)]) == {7: (0, 1)}
    assert tally([row(Path.DELIVERED, State.UNKNOWN)]) == {}  # a correction
    assert tally([row(Path.UNCERTAIN, State.SUBMITTING)]) == {}
    assert tally([row(Path.NOTE, State.SUBMITTED)]) == {}


@given(st.lists(st.sampled_from([int(path) for path in Path]), max_size=12))
def test_over_any_life_the_counts_say_where_the_message_stands(paths: list[int]) -> None:
    state, submitted, final = State.ACCEPTED, 0, 0
    for path in paths:
        end = advance(state, path)
        if end is None:
            continue
        moved, ended = tally([row(path, state)]).get(7, (0, 0))
        submitted, final, state = submitted + moved, final + ended, end
        assert submitted == (state is State.SUBMITTED)
        assert final == (state in FINAL_STATES)


def test_the_recount_knows_the_same_paths() -> None:
    assert {path for path in Path if ENDS[path] is State.SUBMITTED} == set(SUBMITTED_PATHS)
    resting = {path for path in Path if ENDS[path] in FINAL_STATES | {State.SUBMITTED}}
    assert resting == set(RESTING_PATHS)
    assert all(any(moves) for moves in MOVES.values())
