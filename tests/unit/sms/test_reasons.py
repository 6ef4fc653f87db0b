"""The table of reasons: what the store has written must keep its meaning."""

import re

import pytest

from sms.outcomes import Cause
from sms.reasons import (
    BY_CODE,
    CODE_BY_SMALLINT,
    REASONS,
    SMALLINT_BY_CODE,
    is_retryable,
    text_of,
)

# Numbers that were written once. Add lines, never change one.
WRITTEN = {
    1: "recipient.invalid",
    2: "recipient.absent",
    3: "recipient.blocked",
    10: "content.blocked",
    30: "carrier.rejected",
    31: "carrier.blocked",
    39: "carrier.unknown_code",
    53: "channel.error",
    54: "channel.timeout",
    55: "channel.link_lost",
    56: "channel.unavailable",
    70: "submit.timeout",
    71: "process.lost",
    74: "evidence.none",
    76: "validity.expired",
    79: "internal.quarantined",
}


def test_numbers_and_codes_are_used_once_and_fit_a_smallint():
    assert len(SMALLINT_BY_CODE) == len(CODE_BY_SMALLINT) == len(REASONS)
    assert all(0 < reason.number < 256 for reason in REASONS)


@pytest.mark.parametrize(("number", "code"), WRITTEN.items())
def test_a_number_keeps_its_code(number, code):
    assert CODE_BY_SMALLINT[number] == code
    assert SMALLINT_BY_CODE[code] == number


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.code)
def test_each_row_reads_well(reason):
    assert re.fullmatch(r"[a-z]+\.[a-z0-9_]+", reason.code)
    assert reason.text.endswith(".")
    assert BY_CODE[reason.code] is reason
    assert text_of(reason.code) == reason.text


def test_the_codes_of_the_contract_are_there():
    named = (
        "recipient.invalid recipient.absent recipient.blocked carrier.blocked carrier.throttled "
        "channel.timeout channel.unavailable content.blocked policy.frequency_cap "
        "policy.quiet_hours policy.opted_out validity.expired internal.quarantined"
    )
    assert set(named.split()) <= set(SMALLINT_BY_CODE)


def test_what_may_still_be_with_a_carrier_is_never_called_retryable():
    for code in (
        "channel.timeout",
        "channel.link_lost",
        "submit.timeout",
        "process.lost",
        "evidence.none",
        "uncertain.resend",
        "carrier.unknown_outcome",
    ):
        assert not is_retryable(code)


def test_content_and_config_causes():
    assert BY_CODE["content.blocked"].cause is Cause.CONTENT
    assert not any(reason.is_retryable for reason in REASONS if reason.cause is Cause.CONTENT)


def test_an_unlisted_code_is_shown_as_it_is():
    assert not is_retryable("vendor.new")
    assert text_of("vendor.new") == "vendor.new"
