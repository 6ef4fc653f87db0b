"""Reports judged: words and numbers, vendors' spellings, the recorded code tables."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipts.normalise import REACTIONS, Verdict, judge
from sms.model import FINAL_STATES, State
from sms.reasons import SMALLINT_BY_CODE

TABLES = json.loads(
    (Path(__file__).parents[2] / "vectors" / "status-classes.json").read_text("utf-8")
)
FAULTS_OF_THE_CHANNEL = {"temp_network", "throttled", "perm_config", "ported"}
S = State


@pytest.mark.parametrize(
    ("word", "state", "reason"),
    [
        ("DELIVRD", S.DELIVERED, None),
        ("EXPIRED", S.EXPIRED, "carrier.expired"),
        ("DELETED", S.UNDELIVERED, "carrier.deleted"),
        ("UNDELIV", S.UNDELIVERED, "carrier.undelivered"),
        ("ACCEPTD", None, None),
        ("UNKNOWN", S.UNKNOWN, "carrier.unknown_outcome"),
        ("REJECTD", S.UNDELIVERED, "carrier.rejected"),
        ("ENROUTE", None, None),
        ("DELIVERED", S.DELIVERED, None),
        ("FAILED", S.UNDELIVERED, "carrier.undelivered"),
        ("UNDELIVERABLE", S.UNDELIVERED, "carrier.undelivered"),
        ("BUFFRED", None, None),
        ("BUFFERED", None, None),
        ("delivrd", S.DELIVERED, None),
        (" Delivered \x00", S.DELIVERED, None),
        ("0", None, None),
        ("1", None, None),
        ("2", S.DELIVERED, None),
        ("02", S.DELIVERED, None),
        ("3", S.EXPIRED, "carrier.expired"),
        ("4", S.UNDELIVERED, "carrier.deleted"),
        ("5", S.UNDELIVERED, "carrier.undelivered"),
        ("6", None, None),
        ("7", S.UNKNOWN, "carrier.unknown_outcome"),
        ("8", S.UNDELIVERED, "carrier.rejected"),
        ("9", S.UNDELIVERED, "carrier.rejected"),
    ],
)
@pytest.mark.parametrize("error", ["", "0", "000", " 00 "])
def test_words_and_numbers(word, error, state, reason):
    assert judge(word, error) == Verdict(state, reason)


@pytest.mark.parametrize("number", TABLES["smpp_message_state"])
def test_message_state_numbers_agree_with_the_recorded_classes(number):
    kind, words = TABLES["smpp_message_state"][number]
    verdict = judge(number, "")
    assert (verdict.state is None) == (kind == "accepted_intermediate")
    assert (verdict.state is S.DELIVERED) == (kind == "delivered")
    assert (verdict.state is S.UNKNOWN) == (kind == "unknown_outcome")
    for word in words.split(" (")[0].split(" / "):
        assert judge(word, "") == verdict


@pytest.mark.parametrize("code", TABLES["cmpp_stat_code"])
def test_stat_codes_agree_with_the_recorded_classes(code):
    kind = TABLES["cmpp_stat_code"][code][0]
    verdict = judge(code, "")
    assert verdict.is_known
    assert verdict.state is S.UNDELIVERED
    assert verdict.is_temporary == (kind in FAULTS_OF_THE_CHANNEL)
    assert (verdict.reason == "recipient.blocked") == (kind == "perm_blacklist")
    assert judge(code.lower(), "000") == verdict


@pytest.mark.parametrize("prefix", [p for p in TABLES["cmpp_stat_prefix"] if p.endswith(":")])
def test_stat_prefixes_judge_codes_that_no_table_has(prefix):
    kind = TABLES["cmpp_stat_prefix"][prefix][0]
    verdict = judge(prefix + "7777", "")
    assert verdict.is_known
    assert (verdict.state is None) == (kind == "accepted_intermediate")
    assert (verdict.state is S.UNKNOWN) == (kind == "unknown_outcome")
    assert verdict.is_temporary == (kind in FAULTS_OF_THE_CHANNEL)


@pytest.mark.parametrize(
    ("error", "reason", "is_temporary"),
    [
        ("001", "recipient.invalid", False),
        ("1", "recipient.invalid", False),
        ("027", "recipient.absent", False),
        ("034", "carrier.system_error", True),
        ("DB:0141", "recipient.blocked", False),
        ("ID:0076", "content.blocked", False),
    ],
)
def test_the_error_says_why_it_was_not_delivered(error, reason, is_temporary):
    assert judge("UNDELIV", error) == Verdict(S.UNDELIVERED, reason, is_temporary)
    assert judge("EXPIRED", error).state is S.EXPIRED
    assert judge("EXPIRED", error).reason == reason


def test_an_error_beside_delivered_changes_nothing():
    assert judge("DELIVRD", "034") == Verdict(S.DELIVERED, None)
    assert judge("ACCEPTD", "XYZ") == Verdict(None, None)
    assert judge("UNKNOWN", "034").state is S.UNKNOWN


def test_an_error_that_denies_the_end_does_not_undo_it():
    assert judge("UNDELIV", "ML:0001") == judge("UNDELIV", "")
    assert judge("UNDELIV", "IC:7777").state is S.UNKNOWN


@pytest.mark.parametrize("word", ["QX:9", "BLAHBLAH", "17", "-1", "2.0", "２"])
def test_an_unknown_word_is_final_and_counted(word):
    assert judge(word, "") == Verdict(
        S.UNDELIVERED, "carrier.unknown_code", is_temporary=False, is_known=False
    )


def test_an_unknown_error_leaves_the_words_end_and_is_counted():
    verdict = judge("UNDELIV", "4711")
    assert verdict == Verdict(S.UNDELIVERED, "carrier.undelivered", is_known=False)
    assert not verdict.is_temporary


def test_without_a_word_the_error_alone_is_judged():
    assert judge("", "34").is_temporary
    assert not judge("", "4711").is_known


def test_a_report_that_says_nothing_is_no_end():
    assert judge("", "") == Verdict(None, None, is_known=False)
    assert judge(" ", "000").state is None


def test_a_channels_own_table_goes_first():
    own = {"34": "perm_blacklist", "XX:1": "ported", "REJECTD": "perm_content"}
    assert judge("UNDELIV", "034", own).reason == "recipient.blocked"
    assert judge("xx:1", "", own) == Verdict(S.UNDELIVERED, "recipient.ported", is_temporary=True)
    assert judge("REJECTD", "", own).reason == "content.blocked"
    assert judge("UNDELIV", "034").reason == "carrier.system_error"


def test_every_reaction_of_the_recorded_tables_is_known():
    assert set(TABLES["reactions"]) <= REACTIONS


@given(st.text(max_size=12), st.text(max_size=8))
def test_any_report_gets_a_verdict_the_store_can_write(word, error):
    verdict = judge(word, error)
    assert verdict.state is None or verdict.state in FINAL_STATES
    assert verdict.reason is None or verdict.reason in SMALLINT_BY_CODE
    assert not (verdict.is_temporary and not verdict.is_known)
