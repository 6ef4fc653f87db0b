"""The rows of the table: what is done to the primary, and what must hold.

What takes minutes in real life runs on scaled numbers, and `scaled` says so in the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from loadtest.faults import stories, verdicts
from loadtest.faults.row import WAITS, WAITS_SCALED, Row

RECEIPTS: Final[Mapping[str, object]] = {
    **WAITS,
    "health_receipts_from_s": 10,
    "health_receipts_until_s": 12,
}
SLOW: Final[Mapping[str, object]] = {
    **WAITS,
    "health_slow_answer_s": 2,
    "health_slow_s": 6,
    "health_failure_s": 2,  # p95 is of the answers of so long
}
ROWS: Final[Mapping[str, Row]] = {
    row.name: row
    for row in (
        Row(
            "reset",
            "primary reset and refused",
            "first success on a backup ≤ 1 s, 0 lost, 0 unmarked duplicates, nothing waits behind"
            " the dead link",
            stories.reset,
            verdicts.reset,
        ),
        Row(
            "hang",
            "primary hangs with the link up",
            "traffic on the backup ≤ 15 s for otp, ≤ 60 s for all; in-flight ones follow their"
            " policy; 0 lost",
            stories.hang,
            verdicts.hang,
            fault_s=30,
            after_s=25,
        ),
        Row(
            "receipts",
            "primary answers, receipts stop",
            "switched ≤ 360 s",
            stories.receipts,
            verdicts.receipts,
            before_s=20,
            fault_s=18,
            after_s=8,
            numbers=RECEIPTS,
            are_receipts_lost=True,
            scaled=f"receipts of 10–12 s ago (300–360); {WAITS_SCALED}",
        ),
        Row(
            "slow",
            "primary slow (p95 above its bound)",
            "switched as the numbers say, failback ramped, ≤ 4 switches in 10 min",
            stories.slow,
            verdicts.slow,
            fault_s=20,
            after_s=35,
            numbers=SLOW,
            scaled="p95 of the answers in 2 s (10 s) above 2 s (10 s) for 6 s (30 s);"
            f" {WAITS_SCALED}",
        ),
        Row(
            "errors",
            "30 % errors of the primary",
            "switched as the numbers say, failback ramped, ≤ 4 switches in 10 min",
            stories.errors,
            verdicts.errors,
            fault_s=35,
            after_s=35,
        ),
        Row(
            "flap",
            "primary fails and recovers every 6 s",
            "≤ 4 switches in 10 min",
            stories.flap,
            verdicts.flap,
            fault_s=60,
            after_s=10,
        ),
        Row(
            "throttle",
            "throttling at half our rate",
            "none lost, no failover storm, ≥ 0.8 of the carrier's limit used, throttled share"
            " < 10 % after 10 s",
            stories.throttle,
            verdicts.throttle,
            fault_s=35,
            after_s=10,
            scaled="nothing",
            numbers={},
            channel={"segments_per_second": 500},
        ),
        Row(
            "refused",
            "bad numbers, blacklisted, refused content",
            "never sent to a second channel",
            stories.refused,
            verdicts.refused,
            before_s=3,
            fault_s=15,
            after_s=4,
            scaled="nothing",
            numbers={},
        ),
        Row(
            "dark",
            "all four down, then back",
            "nothing fails before its validity; held ones go out by class, then age, ramped",
            stories.dark,
            verdicts.dark,
            after_s=25,
            is_shed=True,
        ),
        Row(
            "canary",
            "a canary that delivers 5 points less",
            "back to 0 % within two gates",
            stories.canary,
            verdicts.canary,
            before_s=5,
            fault_s=80,
            after_s=2,
            scaled="nothing",
            numbers={},
        ),
    )
}
