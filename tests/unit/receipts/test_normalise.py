"""Reports judged: words and numbers, vendors' spellings, the recorded code tables."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipts.normalise import (
    CACHED,
    REACTIONS,
    REPORT_CLASSES,
    ReportCodes,
    Verdict,
    own_classes_refusal,
)
from sms.model import FINAL_STATES, State
from sms.reasons import SMALLINT_BY_CODE

TABLES = json.loads(
    (Path(__file__).parents[2] / "vectors" / "status-classes.json").read_text("utf-8")
)
FAULTS_OF_THE_CHANNEL = {"temp_network", "throttled", "perm_config", "ported"}
S = State


def judge(word, error, own=None, protocol="smpp"):
    return ReportCodes(protocol, own).judge(word, error)


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


def assert_class(verdict, kind):
    """What the file and RELIABILITY section 6 say of a report of that class."""
    assert verdict.is_known == (kind != "unknown")
    assert (verdict.state is None) == (kind == "accepted_intermediate")
    assert (verdict.state is S.DELIVERED) == (kind == "delivered")
    assert (verdict.state is S.UNKNOWN) == (kind == "unknown_outcome")
    assert verdict.is_temporary == (kind in FAULTS_OF_THE_CHANNEL)
    assert (verdict.reason == "recipient.blocked") == (kind == "perm_blacklist")


@pytest.mark.parametrize("protocol", ["smpp", "cmpp2", "cmpp3", "smgp"])
@pytest.mark.parametrize("code", TABLES["cmpp_stat_code"])
def test_stat_codes_agree_with_the_recorded_classes(code, protocol):
    kind = TABLES["cmpp_stat_code"][code][0]
    verdict = judge(code, "", protocol=protocol)
    assert verdict.state is S.UNDELIVERED
    assert_class(verdict, kind)
    assert judge(code.lower(), "000", protocol=protocol) == verdict


@pytest.mark.parametrize("word", TABLES["cmpp_stat_prefix"])
def test_stat_words_and_prefixes_agree_with_the_recorded_classes(word):
    """A prefix judges the codes that no table has."""
    kind = TABLES["cmpp_stat_prefix"][word][0]
    assert_class(judge(word + "7777" if word.endswith(":") else word, "", protocol="cmpp3"), kind)


@pytest.mark.parametrize("code", TABLES["sgip_result_or_errorcode"])
def test_an_sgip_error_of_a_report_agrees_unless_it_is_one_of_an_answer(code):
    """Below 21 a report's ErrorCode has another, SMSC-made meaning (SGIP 1.2)."""
    kind = TABLES["sgip_result_or_errorcode"][code][0]
    verdict = judge("2", code, protocol="sgip")
    assert verdict.state is S.UNDELIVERED
    if int(code) > 20:
        assert_class(verdict, kind)
    else:
        assert not verdict.is_temporary
        assert verdict.is_known == (code in ("0", "1", "5", "12", "13"))


@pytest.mark.parametrize("state", TABLES["sgip_report_state"])
def test_sgip_states_agree_with_the_recorded_classes(state):
    kind = TABLES["sgip_report_state"][state][0]
    assert_class(judge(state, "0", protocol="sgip"), kind)


def test_sgip_states_are_not_smpps():
    assert judge("2", "").state is S.DELIVERED
    assert judge("2", "", protocol="sgip").state is S.UNDELIVERED
    assert judge("3", "").state is S.EXPIRED
    assert not judge("3", "", protocol="sgip").is_known


@pytest.mark.parametrize("error", TABLES["smgp_report_err"])
def test_smgp_errors_agree_with_the_recorded_classes(error):
    kind = TABLES["smgp_report_err"][error][0]
    if kind == "delivered":
        assert judge("DELIVRD", error, protocol="smgp") == Verdict(S.DELIVERED, None)
        return
    for word in ("UNDELIV", ""):  # with the word and alone
        verdict = judge(word, error, protocol="smgp")
        assert_class(verdict, kind)
        assert verdict.state is (S.UNKNOWN if kind == "unknown_outcome" else S.UNDELIVERED)


def test_the_same_error_means_another_thing_in_another_protocol():
    assert judge("UNDELIV", "001").reason == "recipient.invalid"  # GSM MAP
    assert judge("UNDELIV", "001", protocol="smgp").reason == "recipient.absent"
    assert judge("2", "1", protocol="sgip").reason == "recipient.invalid"
    assert not judge("UNDELIV", "1", protocol="cmpp2").is_known


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
    told = judge("UNDELIV", error)
    assert (told.state, told.reason) == (S.UNDELIVERED, reason)
    assert (told.is_temporary, told.is_known) == (is_temporary, True)
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
    own = {"34": "perm_blacklist", "XX:1": "ported", "REJECTD": "perm_content", "mk:": "ported"}
    assert judge("UNDELIV", "034", own).reason == "recipient.blocked"
    assert judge("xx:1", "", own) == Verdict(S.UNDELIVERED, "recipient.ported", is_temporary=True)
    assert judge("REJECTD", "", own).reason == "content.blocked"
    assert judge("MK:0005", "", own).reason == "recipient.ported"  # its prefix, before the code
    assert judge("UNDELIV", "034").reason == "carrier.system_error"


@pytest.mark.parametrize("kind", sorted(REPORT_CLASSES))
def test_a_channel_may_give_a_word_any_class(kind):
    assert judge("ZZ:0001", "", {"zz:0001": kind}).is_known


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ([], "map"),
        ({5: "perm_number"}, "quotes"),
        ({"": "perm_number"}, "1 to 20"),
        ({"X" * 21: "perm_number"}, "1 to 20"),
        ({"X\n": "perm_number"}, "1 to 20"),
        ({"XA:1": "number"}, "perm_number"),
        ({"XA:1": "unknown"}, "perm_number"),
        ({"XA:1": ["ported"]}, "perm_number"),
    ],
)
def test_a_wrong_table_of_a_channel_is_refused_with_what_to_do(own, says):
    told = own_classes_refusal(own)
    assert told is not None
    assert says in told
    assert own_classes_refusal({"XA:1": "perm_number", "34": "ported"}) is None


def test_a_pair_is_judged_once_and_the_memory_of_pairs_is_bounded():
    codes = ReportCodes()
    first = codes.read("UNDELIV", "001")
    assert first == (judge("UNDELIV", "001"), "UNDELIV 001")
    assert codes.read("UNDELIV", "001") is first
    assert codes.read("DELIVRD", "")[1] == "DELIVRD"
    for number in range(CACHED + 10):
        codes.read(str(number), "")
    assert len(codes._seen) <= CACHED


def test_every_reaction_of_the_recorded_tables_is_known():
    assert set(TABLES["reactions"]) <= REACTIONS


@given(
    st.text(max_size=12),
    st.text(max_size=8),
    st.sampled_from(["smpp", "cmpp2", "cmpp3", "sgip", "smgp", "http"]),
)
def test_any_report_gets_a_verdict_the_store_can_write(word, error, protocol):
    verdict = judge(word, error, protocol=protocol)
    assert verdict.state is None or verdict.state in FINAL_STATES
    assert verdict.reason is None or verdict.reason in SMALLINT_BY_CODE
    assert not (verdict.is_temporary and not verdict.is_known)
