"""Every row of the recorded table of codes, as an answer to a submit: what follows from it.

Rows of reports: tests/unit/receipts/test_normalise.py.
"""

import json
import re
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sms import codes
from sms.codes import ANSWER_CLASSES, AnswerCodes, code_of, family_of, own_classes, remark_of
from sms.outcomes import Cause, Rejected, Throttled
from sms.reasons import SMALLINT_BY_CODE

VECTORS = Path(__file__).parents[2] / "vectors" / "status-classes.json"
TABLES = json.loads(VECTORS.read_text("utf-8"))
SECTIONS = {
    "smpp": "smpp_command_status",
    "cmpp": "cmpp_submit_result",
    "sgip": "sgip_result_or_errorcode",
    "smgp": "smgp_status",
}
# RELIABILITY section 6, else the file's own reaction: which cause, so whether it is final (number,
# content), goes to another channel (the others), or waits (throttled).
CAUSES = {
    "perm_number": Cause.NUMBER,  # "invalid/blocked/absent number, blacklist": final
    "perm_blacklist": Cause.NUMBER,
    "temp_handset": Cause.NUMBER,
    "perm_content": Cause.CONTENT,  # "content, signature, template refused": final
    "perm_config": Cause.CONFIG,  # "account, balance, permission": next channel
    "perm_account": Cause.CONFIG,  # those that name the account as a whole
    "temp_network": Cause.CHANNEL,  # "system error": next channel after 1 s x 2^n
    "unknown": Cause.UNKNOWN,  # "unknown code": next channel once, then failed
    "perm_other": Cause.CONTENT,  # the file: final failure, no retry
    "freq_limit": Cause.NUMBER,  # the file: final failure
    "ported": Cause.NETWORK,  # next channel
}


# Recorded as a number's cap, but the account's own quota, or as one configuration among others,
# but the login: RELIABILITY 6, "account", wins.
ACCOUNTS = {
    *(("sgip", code) for code in ("1", "182")),
    *(("smgp", code) for code in ("20", "21", "74", "75", "76")),
    *(("smpp", f"0x0000000{digit}") for digit in "def"),
}


def cases():
    for family, section in SECTIONS.items():
        for code, (recorded, _) in TABLES[section].items():
            kind = "perm_account" if (family, code) in ACCOUNTS else recorded
            for number in numbers_of(code):
                if number:  # 0 is success
                    yield pytest.param(family, number, kind, id=f"{family}-{code}-{number}")


def numbers_of(code):
    """A row's codes; both ends and one between of a range."""
    if found := re.fullmatch(r"(0x[0-9a-f]+|\d+)-(0x[0-9a-f]+|\d+)", code):
        low, high = (int(end, 0) for end in found.groups())
        return [low, (low + high) // 2, high]
    if found := re.match(r"vendor >=(\d+)", code):
        return [int(found[1]), 51, 250]
    return [int(code, 0)]


def test_what_is_shipped_is_what_was_recorded():
    shipped = resources.files("sms") / "data" / "status-classes.json"
    assert shipped.read_bytes() == VECTORS.read_bytes()


@pytest.mark.parametrize(("family", "number", "kind"), list(cases()))
def test_an_answers_row_leads_to_the_reaction_of_its_class(family, number, kind):
    outcome = AnswerCodes(family).outcome(number)
    if kind == "throttled":
        assert isinstance(outcome, Throttled)
        assert 1.0 <= outcome.retry_after_s <= 5.0
        return
    assert isinstance(outcome, Rejected)
    assert outcome.cause is CAUSES[kind]
    assert outcome.reason in SMALLINT_BY_CODE
    assert (outcome.reason == "recipient.blocked") == (kind == "perm_blacklist")
    assert (outcome.reason == "recipient.absent") == (kind == "temp_handset")
    assert outcome.code == (f"{number:#010x}" if family == "smpp" else str(number))


@pytest.mark.parametrize("kind", sorted(set(TABLES["reactions"]) & ANSWER_CLASSES))
@pytest.mark.parametrize("family", sorted(SECTIONS))
def test_a_channel_may_give_a_code_any_class_that_an_answer_can_have(family, kind):
    for code in (8, 0x401):  # one that the protocol has, one that it has not
        outcome = AnswerCodes(family, {code: kind}).outcome(code)
        if kind == "throttled":
            assert isinstance(outcome, Throttled)
        else:
            assert isinstance(outcome, Rejected)
            assert outcome.cause is CAUSES[kind]


def test_an_answer_cannot_be_an_end_that_only_a_report_knows():
    only_reports = set(TABLES["reactions"]) - ANSWER_CLASSES
    assert only_reports == {"delivered", "accepted_intermediate", "unknown_outcome"}


def test_what_smpp_5_adds_is_configuration():
    for code in range(0x100, 0x107):
        outcome = AnswerCodes("smpp").outcome(code)
        assert isinstance(outcome, Rejected)
        assert outcome.cause is Cause.CONFIG


@given(st.sampled_from(sorted(SECTIONS)), st.integers(0, 0xFFFFFFFF))
def test_every_code_has_an_outcome_and_only_unmapped_ones_are_unknown(family, code):
    outcome = AnswerCodes(family).outcome(code, prefix="nack:")
    assert outcome.code.startswith("nack:")
    if isinstance(outcome, Rejected):
        known = bool(remark_of(family, code))
        assert (outcome.cause is Cause.UNKNOWN) == (not known)


def test_codes_as_a_configuration_writes_them():
    assert [code_of(key) for key in (1025, "1025", "0x0401", "0X401")] == [1025] * 4
    for key in (0, -1, True, "", "x", "0401", 1 << 32, None, 1.5):
        assert code_of(key) is None
    assert own_classes({"0x401": "ported", "zz": "ported"}) == {0x401: "ported"}


def test_both_versions_of_cmpp_have_the_same_codes():
    assert [family_of(name) for name in ("cmpp2", "cmpp3", "smpp", "sgip", "smgp")] == [
        *("cmpp", "cmpp", "smpp", "sgip", "smgp")
    ]


def test_every_section_of_answers_is_used():
    """A section that nobody reads would be promised by the data and kept by nobody."""
    answers = {name for name in TABLES if name.endswith(("_command_status", "_result", "_status"))}
    assert answers - {"cmpp_connect_status"} == set(SECTIONS.values()) - {
        "sgip_result_or_errorcode"
    }
    assert set(codes._SECTIONS.values()) == set(SECTIONS.values())
