"""An older version and this one over one database, under load: no client sees the upgrade.

The longer run with the way back is `make upgrade`; this is the same story, shorter.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.campaign.traffic import Rates
from loadtest.upgrade import old
from loadtest.upgrade.__main__ import problems
from loadtest.upgrade.story import Plan, run
from store import schema

pytestmark = pytest.mark.flow


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
    return Plan(version, root, Rates().scaled(0.25), calm_s=0.5, migration_kills=2, turns=2)


def test_an_upgrade_under_load_and_the_way_back_are_not_seen_by_any_client(
    folder: Path, plan: Plan
) -> None:
    outcome = asyncio.run(run(plan, folder / "p", lambda _: None))
    assert outcome.has_kept_all, problems(outcome)
    assert outcome.verdict is not None
    assert outcome.verdict.accepted == outcome.verdict.sent > 100
    assert outcome.read > 20


def test_the_recorded_versions_lie_behind_a_migration_of_now() -> None:
    names = schema.migration_names()
    for version in old.known():
        assert version.newest_migration in names[:-1]
        assert version.why


def test_where_the_history_is_missing_it_says_what_helps(tmp_path: Path) -> None:
    with pytest.raises(old.NoHistory, match="clone it"):
        old.unpack("a" * 40, tmp_path / "code", root=tmp_path)
