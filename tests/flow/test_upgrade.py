"""An older version and this one over one database, under load: no client sees the upgrade.

The longer run with the way back is `make upgrade`; this is the same story, shorter.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.campaign.traffic import Rates
from loadtest.upgrade import old
from loadtest.upgrade.__main__ import problems
from loadtest.upgrade.story import Outcome, Plan, run
from store import schema

pytestmark = pytest.mark.flow

# A machine with much else to do is no subject here: what it may be late by is taken as it is.
PATIENT = {
    "shed_loop_lag_s": "10",
    "shed_write_age_s": "20",
    "statement_timeout_s": "10",
    "valkey_timeout_s": "5",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: the path of a Unix socket has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="smsgw-") as name:
        yield Path(name)


@pytest.fixture
def plan(folder: Path) -> Plan:
    version = old.known()[-1]
    try:
        root = old.unpack(version.commit, folder / "code")
    except old.NoHistory as error:
        pytest.skip(f"no older version to upgrade from: {error}")
    rates = Rates().scaled(0.1)  # some 22 texts/s: little for a machine that has other things to do
    return Plan(version, root, rates, calm_s=0.5, migration_kills=2, turns=2, numbers=PATIENT)


def test_an_upgrade_under_load_and_the_way_back_are_not_seen_by_any_client(
    folder: Path, plan: Plan
) -> None:
    _is_not_seen(asyncio.run(run(plan, folder / "p", lambda _: None)))


@pytest.mark.campaign  # half a minute more: `make test` restarts workers of one version
def test_new_workers_under_the_supervisor_of_before_are_not_seen_either(
    folder: Path, plan: Plan
) -> None:
    """One node: the code on its disk is replaced, and `smsgw restart` waits for `smsgw migrate`."""
    plan = replace(plan, is_in_place=True, migration_kills=0)
    _is_not_seen(asyncio.run(run(plan, folder / "p", lambda _: None)))


def _is_not_seen(outcome: Outcome) -> None:
    assert outcome.has_kept_all, problems(outcome)
    assert outcome.verdict is not None
    assert outcome.verdict.accepted == outcome.verdict.sent > 100
    assert outcome.read > 10


def test_the_recorded_versions_lie_behind_a_migration_of_now() -> None:
    names = schema.migration_names()
    for version in old.known():
        assert version.newest_migration in names[:-1]
        assert version.why


def test_where_the_history_is_missing_it_says_what_helps(tmp_path: Path) -> None:
    with pytest.raises(old.NoHistory, match="clone it"):
        old.unpack("a" * 40, tmp_path / "code", root=tmp_path)
