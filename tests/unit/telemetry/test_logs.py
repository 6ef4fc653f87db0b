"""Nothing personal reaches a log line."""

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sms.errors import ConfigError
from telemetry import logs
from telemetry.metrics import Metrics

PHONE = "13800138000"
TEXT = "【某商城】验证码 482913"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Logs of this test, with the standard library's set-up put back afterwards."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)
    ignored = sys.unraisablehook
    out = io.StringIO()
    logs.configure("info", out, {"process": "worker-0"})
    yield out
    logging.captureWarnings(capture=False)
    root.handlers[:], sys.excepthook, threading.excepthook = before[0], before[2], before[3]
    root.setLevel(before[1])
    sys.unraisablehook = ignored


def last(stream: io.StringIO) -> dict[str, object]:
    line = stream.getvalue().splitlines()[-1]
    value = json.loads(line)
    assert isinstance(value, dict)
    return value


def test_a_line_has_the_time_the_level_the_place_and_the_fields(stream: io.StringIO) -> None:
    logs.get_logger("gateway.flow").info("channel up", channel="mobile-a", sessions=2)
    line = last(stream)
    assert str(line.pop("at")).endswith("Z")
    assert line == {
        "event": "channel up",
        "level": "info",
        "logger": "gateway.flow",
        "process": "worker-0",
        "channel": "mobile-a",
        "sessions": 2,
    }


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (PHONE, "138****8000"),
        ("+86" + PHONE, "138****8000"),
        ("0086" + PHONE, "138****8000"),
        ("+86 138 0013 8000", "138****8000"),
        ("138-0013-8000", "138****8000"),
        ("+14155550100", "141****0100"),
        ("to13800138000.", "to138****8000."),
        ("number 02083661177 called", "number 020****1177 called"),
        ("0000000000000000000000013800138000", "000****8000"),
    ],
)
def test_a_phone_number_is_masked(text: str, masked: str) -> None:
    assert logs.mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "msg_0123456789abcdef",
        "117432423423423424",
        "2026-11-21T22:38:00.123456Z",
        "10.100.200.255:65535",
        "took 1.123456789 s",
        "partition messages_20261121",
        "pid 1234567",
        "line 42",
    ],
)
def test_what_is_no_phone_number_stays(text: str) -> None:
    assert logs.mask(text) == text


@given(
    st.from_regex(r"(\+?86)?1[3-9][0-9]{9}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Nd"]), max_size=5),
    st.text(st.characters(exclude_categories=["Nd"]), max_size=5),
)
def test_no_number_comes_through_whatever_stands_around_it(
    number: str, before: str, after: str
) -> None:
    assert number[-11:] not in logs.mask(f"{before}{number}{after}")


NUMBERS = st.one_of(
    st.from_regex(r"(\+?86|0086)?1[3-9][0-9]{9}", fullmatch=True),
    st.from_regex(r"\+(1[2-9][0-9]{9}|44[1-9][0-9]{9}|852[5-9][0-9]{7})", fullmatch=True),
)
AROUND = st.text(st.characters(codec="utf-8", exclude_categories=["Nd", "Cs"]), max_size=30)


@given(
    NUMBERS, AROUND, AROUND, st.sampled_from(["", "0.", "1.", "/", "=", "id ", "20261122T", "x1"])
)
def test_no_form_of_a_number_comes_through_a_line(
    number: str, before: str, after: str, near: str
) -> None:
    shown = logs.render(
        {"event": f"{before}{near}{number}{after}", number: [number, {"x": number}]}
    )
    assert number[-10:] not in shown
    assert number[-10:] not in logs.mask_foreign(f"{before}{near}{number}{after}")
    assert number[-10:] not in logs.mask_exception(RuntimeError(f"{before}{near}{number}{after}"))


@given(st.integers(0, (1 << 63) - 1), st.sampled_from(["msg", "bat", "evt", "key", "ten", "chn"]))
def test_ids_stay_as_they_are(number: int, prefix: str) -> None:
    text = f"of {prefix}_{number:016x}, again"
    assert logs.mask(text) == text
    assert logs.mask_foreign(text) == text


def test_a_number_on_the_edge_of_what_is_shown_is_not_cut_in_two() -> None:
    for more in range(15):
        shown = logs.mask("x" * (logs.MAX_TEXT - more) + PHONE + "y" * 500)
        assert PHONE[:6] not in shown


def test_wide_digits_are_digits() -> None:
    wide = "".join(chr(0xFF10 + int(one)) for one in PHONE)
    assert logs.mask(f"to {wide}") == "to 138****8000"


CODE = "Kq7Zw3Xp"
WORDS = st.lists(
    st.sampled_from(["Your", "code", "it's", 'a "b"', "\\", "`x`", "'", '"', "é", "您的"])
)


@given(
    WORDS, WORDS, st.sampled_from([repr, ascii, str, "'{}'".format, lambda text: repr(text)[:30]])
)
def test_no_text_comes_through_a_librarys_exception(before, after, shown) -> None:
    text = " ".join([*before, CODE, "482913", *after])
    for error in (
        ValueError(f"cannot digest {shown(text)} (expected str)"),
        KeyError(text),
        RuntimeError(f"invalid input for query argument $1: {shown(text)} ('str' is no integer)"),
        ValueError(f"bad octets {text.encode()!r} at 7"),
        UnicodeDecodeError("ascii", text.encode(), 0, 1, "ordinal not in range"),
    ):
        said = logs.mask_exception(error)
        assert CODE not in said
        assert "482913" not in said
        assert said.startswith(type(error).__name__)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "<Task finished name='Task-3' coro=<f() done> exception=ValueError('Hi, you')>",
            "<Task finished name='Task-3' coro=<f() done> exception=ValueError('[hidden]')>",
        ),
        ("invalid input for query argument $1: 'Hi, you and yo... (expected int)", "$1: '[hidden]"),
        ("got b'\\xe6\\x82 Hi you'", "got b'[hidden]'"),
        ("GET https://x/?text=%E6%82%A8%E7%9A%84&a=1", "GET https://x/?text=[hidden]&a=1"),
        ("\\u60a8\\u7684 and &#24744;", "[hidden] and [hidden]"),
        ("code 482913 or Kq7Zw3Xp", "code [hidden] or [hidden]"),
        ('relation "messages_20261121" has no column "utf8"', None),
        ("'<=' not supported between 'int' and 'NoneType' at worker-0.sock", None),
    ],
)
def test_what_a_library_quotes_is_shown_only_when_it_is_a_name(
    said: str, shown: str | None
) -> None:
    assert (shown or said) in logs.mask_foreign(said)


@given(st.text(st.sampled_from("aA_1<>.'\" -"), max_size=300))
def test_hiding_takes_no_time_to_speak_of(text: str) -> None:
    logs.mask_foreign("a" * 200 + text)
    logs.mask_foreign(f"'{text}'")


def test_an_address_of_the_system_keeps_its_port() -> None:
    error = ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 5432)")
    assert "('127.0.0.1', 5432)" in logs.mask_exception(error)


def test_a_librarys_own_line_is_hidden_too_and_ours_is_not(stream: io.StringIO) -> None:
    for name in ("asyncio", "aiohttp.client", "some.library"):
        logging.getLogger(name).error("cannot handle %r", TEXT)
        assert "482913" not in stream.getvalue()
        assert "某商城" not in stream.getvalue()
    logs.get_logger("gateway.x").error("tenant '某商城' is suspended")
    assert last(stream)["event"] == "tenant '某商城' is suspended"


def test_an_exception_that_nobody_can_catch_is_a_masked_line(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    class Dying:
        def __repr__(self) -> str:
            return f"Dying({TEXT})"

        def __del__(self) -> None:
            raise ValueError(f"{TEXT!r} to {PHONE}")

    Dying()
    line = last(stream)
    assert line["event"] == "exception ignored"
    assert "in __del__" in str(line["exception"])
    assert "482913" not in stream.getvalue() + capsys.readouterr().err
    assert PHONE not in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer smsgw_k1_abcdefghijklmnopqrstuvwxyz", "abcdefgh"),
        ("key smsgw_0123456789abcdef_abcdefghijklmnopqrstuvwxyz12 used", "abcdefgh"),
        ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "C2FV"),
        ("postgresql://user:hunter2@db/x", "hunter2"),
        ("bind failed, password=hunter2", "hunter2"),
    ],
)
def test_a_secret_inside_a_string_is_masked(text: str, secret: str) -> None:
    assert secret not in logs.mask(text)


def test_values_under_secret_names_are_hidden(stream: io.StringIO) -> None:
    logs.get_logger("x").info(
        "event", text=TEXT, password="p", spec={"api_key": "k", "body": [1]}, password_file="a.pw"
    )
    line = last(stream)
    assert line["text"] == line["password"] == logs.HIDDEN
    assert line["spec"] == {"api_key": logs.HIDDEN, "body": logs.HIDDEN}
    assert line["password_file"] == "a.pw"


def test_numbers_are_masked_in_ints_keys_lists_and_bytes(stream: io.StringIO) -> None:
    logs.get_logger("x").info(
        "to " + PHONE,
        number=int(PHONE),
        by_number={"86" + PHONE: [PHONE]},
        pdu=PHONE.encode(),
        message_id=117432423423423424,
        stored_bytes=17179869184,
    )
    assert PHONE not in stream.getvalue()
    line = last(stream)
    assert line["number"] == "138****8000"
    assert line["pdu"] == "[11 bytes]"
    assert line["message_id"] == 117432423423423424
    assert line["stored_bytes"] == 17179869184


def test_an_object_that_is_logged_whole_is_masked(stream: io.StringIO) -> None:
    class Holder:
        def __repr__(self) -> str:
            return f"Holder({PHONE})"

    logs.get_logger("x").info("holding", holder=Holder())
    assert last(stream)["holder"] == "Holder(138****8000)"


def test_a_forced_traceback_shows_neither_number_nor_text(stream: io.StringIO) -> None:
    def inner(number: str, text: str) -> None:
        raise ValueError(f"cannot digest {text!r} for {number}")

    try:
        try:
            dict[str, int]()[TEXT]
        except KeyError:
            inner(PHONE, TEXT)
    except ValueError:
        logs.get_logger("x").exception("went wrong")
    shown = stream.getvalue()
    assert len(shown.splitlines()) == 1
    for personal in (PHONE, "482913", "某商城", "验证码"):
        assert personal not in shown
    exception = str(last(stream)["exception"])
    assert "in inner" in exception
    assert "ValueError: cannot digest" in exception
    assert "KeyError" in exception


def test_the_standard_library_goes_the_same_way(stream: io.StringIO) -> None:
    try:
        int(TEXT)
    except ValueError:
        logging.getLogger("asyncpg").exception("lost %s", PHONE)
    line = last(stream)
    assert line["event"] == "lost 138****8000"
    assert line["logger"] == "asyncpg"
    assert "482913" not in stream.getvalue()
    assert "ValueError" in str(line["exception"])


def test_exceptions_in_a_group_are_masked_each(stream: io.StringIO) -> None:
    try:
        raise ExceptionGroup("two", [ValueError(f"'{TEXT}'"), OSError(PHONE)])
    except ExceptionGroup:
        logs.get_logger("x").exception("both")
    shown = stream.getvalue()
    assert "OSError: 138****8000" in shown
    assert "482913" not in shown


def test_postgres_detail_and_pydantic_input_are_not_shown() -> None:
    error = RuntimeError(f"duplicate key\nDETAIL:  Failing row contains (1, {TEXT}).")
    assert "482913" not in logs.mask_exception(error)
    error = RuntimeError("text\n  bad [type=x, input_value='Your code is 1', input_type=str]")
    assert "Your code" not in logs.mask_exception(error)


def test_what_names_a_thing_in_an_exception_stays() -> None:
    error = RuntimeError("relation 'messages' doesn't exist, isn't there")
    assert logs.mask_exception(error) == f"RuntimeError: {error}"
    assert "某商城" in logs.mask_exception(ConfigError("tenant '某商城' has no key"))


def test_an_exception_without_a_message_still_has_a_name() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert logs.mask_exception(TimeoutError()) == "TimeoutError"
    assert logs.mask_exception(Broken()) == "Broken: (no message: RuntimeError)"


@given(st.text(max_size=50))
def test_no_text_forges_a_second_line(text: str) -> None:
    out = io.StringIO()
    handler = logging.getLogger().handlers[:]
    hooks, ignored = (sys.excepthook, threading.excepthook), sys.unraisablehook
    try:
        logs.configure("info", out)
        logs.get_logger("x").info("said", what=text + "\n\x1b[31m\u202e\u2028\ud800")
    finally:
        logging.getLogger().handlers[:] = handler
        logging.captureWarnings(capture=False)
        sys.excepthook, threading.excepthook = hooks
        sys.unraisablehook = ignored
    line = out.getvalue()
    assert len(line.splitlines()) == 1
    assert not any(char in line for char in "\x1b\u202e\ud800")
    json.loads(line)


def test_a_line_that_cannot_be_made_is_counted_without_its_arguments(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    root.handlers[:] = [h for h in root.handlers if isinstance(h, logs._Handler)]
    logging.getLogger("x").info("%d", PHONE)
    assert PHONE not in stream.getvalue()
    assert PHONE not in capsys.readouterr().err
    assert last(stream)["event"] == "log line lost"


def test_an_uncaught_exception_is_a_masked_line(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ValueError(PHONE)
    sys.excepthook(ValueError, error, None)
    assert last(stream)["exception"] == "ValueError: 138****8000"
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert "KeyboardInterrupt" in capsys.readouterr().err


def test_the_level_is_obeyed_and_a_wrong_one_is_refused(stream: io.StringIO) -> None:
    logs.get_logger("x").debug("unheard")
    logging.getLogger("uvicorn.access").info("GET /")
    assert stream.getvalue() == ""
    with pytest.raises(ValueError, match="loud"):
        logs.configure("loud")


def test_warnings_become_lines(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn(f"careful with {PHONE}", stacklevel=1)
    assert "careful with 138****8000" in str(last(stream)["event"])


def test_warnings_and_worse_are_counted_by_logger(stream: io.StringIO) -> None:
    before = Metrics().snapshot()["log_lines_total"]
    logs.get_logger("gateway.counted").info("all is well")
    logs.get_logger("gateway.counted").warning("less so")
    for _ in range(2):
        logging.getLogger("gateway.counted").error("caught")
    new = [sample for sample in Metrics().snapshot()["log_lines_total"] if sample not in before]
    assert sorted(new) == [
        (["error", "gateway.counted"], [2]),
        (["warning", "gateway.counted"], [1]),
    ]
