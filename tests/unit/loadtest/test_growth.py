import shutil
from collections import Counter
from types import SimpleNamespace

import pytest

from loadtest.fill import (
    FIRST_SMALL,
    Day,
    carrier_id_of,
    channel_of,
    digits_of,
    id_of,
    tenant_of,
)
from loadtest.growth import check_disk, check_hour, days_of
from loadtest.growthreport import compare, costs_of
from loadtest.stock_gateway import NotStock
from sms.ids import id_at
from sms.numbers import Number, parse_number
from store.partitions import day_range, today
from store.seal import day_of

NOON = 1_795_348_800.0  # 2026-11-22 12:00 UTC


def run_of(us, worker=60.0):
    return {
        "gateway_us": us,
        "cpu_us": {"worker": worker, "postgres": us - worker},
        "accepted_per_second": 1000.0,
        "answer_ms": {"p99": 20.0},
    }


def test_a_ratio_is_that_of_the_medians_and_tells_how_the_rounds_scatter():
    figure = compare("x", "µs", [100.0, 110.0, 90.0], [120.0, 110.0, 99.0], 1.15)
    assert (figure.base, figure.other, figure.ratio) == (100.0, 110.0, 1.1)
    assert figure.span == "1.00…1.20"
    assert figure.is_good


def test_a_ratio_above_its_limit_fails_and_one_without_a_limit_is_told():
    assert compare("x", "µs", [100.0], [116.0], 1.15).is_good is False
    assert compare("x", "µs", [100.0], [300.0]).is_good is None


def test_only_the_cost_of_a_message_is_judged():
    rows = costs_of("single", [run_of(100.0)], [run_of(120.0)], 1.15)
    assert [row.is_good for row in rows] == [False, None, None, None, None]
    assert [row.ratio for row in rows[:3]] == [1.2, 1.0, 1.5]


def test_the_full_store_is_as_the_task_says():
    days = days_of(NOON, 1.0)
    assert sum(day.count for day in days[:-1]) == 10_000_000
    assert len({day.day for day in days}) == 41
    assert days[-1].day == today(NOON)
    assert days[-1].count == 5_000_000
    assert id_of(days[-1], days[-1].count - 1, 0) < id_at(NOON - 590)


def test_ids_ascend_within_their_day_and_are_given_once():
    day = Day(325, 50_000, 3_600_000)
    ids = [id_of(day, number, 3) for number in range(day.count)]
    low, high = day_range(325)
    assert low <= min(ids)
    assert max(ids) < high
    assert len(set(ids)) == len(ids)
    assert [made >> 22 for made in ids] == sorted(made >> 22 for made in ids)
    assert {made >> 12 & 1023 for made in ids} == {3}
    assert {day_of(made) for made in ids} == {325}


def test_one_tenant_has_nine_messages_in_ten():
    owners = Counter(tenant_of(number, 1) for number in range(10_000))
    assert owners[1] == 9000
    assert len(owners) == 1000
    assert min(owner for owner in owners if owner != 1) == FIRST_SMALL


def test_carriers_ids_and_numbers_are_good_and_differ():
    day = Day(325, 20_000)
    ids = {(channel_of(n), carrier_id_of(day, n)) for n in range(day.count)}
    assert len(ids) == day.count
    assert isinstance(parse_number("+" + digits_of(day, 17)), Number)


def test_a_disk_that_is_too_small_is_told_with_remedies(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=20 << 30, total=1 << 40, used=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NotStock, match=r"--data-parent.*--scale"):
        check_disk(tmp_path, 1.0)
    check_disk(tmp_path, 0.1)


@pytest.mark.parametrize(
    ("hour", "is_good"), [(0.2, False), (0.6, True), (22.5, True), (23.5, False)]
)
def test_the_end_of_a_day_is_no_time_to_measure(hour, is_good):
    now = NOON + 12 * 3600 + hour * 3600
    if is_good:
        check_hour(now)
    else:
        with pytest.raises(NotStock, match="00:30"):
            check_hour(now)
