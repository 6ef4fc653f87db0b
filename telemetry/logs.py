"""Structured logs: one JSON object a line, with everything personal taken out in the formatter.

The masking is the last step before a line is written, for our own lines, for tracebacks and for
the lines of libraries alike, so no caller can forget it:

- anything like a phone number becomes `138****1234`; our 64-bit ids and `msg_…` texts stay;
- values under names such as `text`, `password`, `api_key` are not shown, nor are keys, bearer
  tokens and passwords inside a string;
- a library may quote what it could not digest, in an exception or in a line of its own: what is
  quoted and is no plain name, what is not ASCII and what looks like a code is not shown, and
  tracebacks never hold local variables;
- what Python itself would print to stderr (an exception in a thread, in a `__del__`, a warning)
  goes the same way;
- control and direction characters are escaped, so a line cannot forge another one.

A line costs some 10 µs: none is written per message on the good path. The events table is the
log of messages.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

# structlog looks for rich, for tracebacks in colour that no line of ours has, and loading it takes
# a twentieth of a worker's start: it is hidden from it.
if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # "no such module" (import system, 5.3.1)
    try:
        import structlog
    finally:
        del sys.modules["rich"]
else:
    import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from sms.errors import GatewayError

HIDDEN = "[hidden]"
# Lines of warnings and worse by (level, logger) in this process, for `smsgw_log_lines_total`: a
# fault that is caught and logged is in a metric without a line of its own.
written: Counter[tuple[str, str]] = Counter()
MAX_TEXT = 4000  # characters of one value
_CUT_LATER = 200  # characters looked at beyond it, so that no number or key is cut in two
MAX_TRACEBACK = 16000
MAX_DEPTH = 6

# Ids first: what this alternative takes, the number alternatives after it never see.
_PHONE = re.compile(
    r"(?P<keep>\b(?:msg|bat|evt|whe|chn|ten|key)_[0-9a-f]{16}\b"
    r"|(?<![0-9])[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9])"  # a date
    r"|(?<=[_p])20[2-9][0-9][01][0-9][0-3][0-9](?![0-9])"  # a partition's day
    # a decimal number; of ten digits before the point only Unix seconds
    r"|(?<![0-9.])(?:[0-9]{1,7}|1[5-9][0-9]{8})\.[0-9]{1,9}(?![0-9.])"
    r"|(?<![0-9])[0-9]{18,19}(?![0-9]))"  # a 64-bit id
    r"|(?P<phone>(?:\+|\b00)[0-9]{1,3}(?:[ -]?[0-9]{2,}){2,}"  # +86 138 0013 8000
    r"|(?<![0-9])1[3-9][0-9][ .-][0-9]{4}[ .-][0-9]{4}(?![0-9])"
    r"|[0-9]{8,})"
)
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"whsec_[0-9A-Za-z+/=_-]+"), "whsec_****"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;]+"), r"\1 ****"),
    (re.compile(r"(://[^/\s:@]*):[^/\s@]+@"), r"\1:****@"),
    (re.compile(r"\b([a-z]{2,12}_[0-9A-Za-z]{1,32})_[0-9A-Za-z_+/=-]{20,}"), r"\1_****"),
    (
        re.compile(r"(?i)\b(pass(?:word|wd|phrase)?|secret|token|api_?key)(\s*[=:]\s*)[^\s,;&]+"),
        r"\1\2****",
    ),
)
# The name of a value that is not to be shown, as a whole word of its snake_case name.
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_.-])(?:pass(?:word|wd|phrase)?|secrets?|tokens?|api_?key|master_?key|pepper"
    r"|authorization|cookie|text|texts|body|content|payload|variables|metadata|client_ref|otp_code)"
    r"(?:$|[_.-])"
)
_SECRET_NAME_BUT = re.compile(r"(?i)_(?:file|count|total|bytes|type|length)$")
# HOUSE section 3: the unit stands in the name; such an integer is no phone number.
_MEASURE_NAME = re.compile(r"(?:^|_)(?:bytes|ns|us|ms|s|at|rows|count|id)$")
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\uffff]"
)
_PG_DETAIL = re.compile(r"(?m)^(DETAIL|CONTEXT|QUERY):.*$")
_PYDANTIC_INPUT = re.compile(r"input_value=.*?(?=, input_type=|\]|$)", re.DOTALL)
# A word in quotes that names a thing of a program: `messages_20261121`, 'utf-8', "worker-0", '<='.
# Digits inside a word make it a code.
_WORD = r"(?:[A-Za-z_]*[_p]20[0-9]{6}|[A-Za-z_]++[0-9]{0,3}|[0-9]{1,3})"
_NAME_LIKE = re.compile(
    rf"(?=.{{0,60}}\Z)[./<]*+(?:{_WORD}(?:[./:<>-]++{_WORD})*[./:<>-]*+)?|[<>=!+*/%&|^-]{{1,3}}"
)
_QUOTED = re.compile(
    r"(?<!\w)(?:[bBrRuUfF]{1,2})?(?P<quote>['\"`])"
    r"(?P<inner>(?:\\.|(?!(?P=quote)).)*)(?P<end>(?P=quote)(?!\w))?",
    re.DOTALL,
)
_FOREIGN = re.compile(
    r"(?:[^\x00-\x7f]|\\x[0-9A-Fa-f]{2}|\\[uU][0-9A-Fa-f]{4,8}|(?:%[0-9A-Fa-f]{2}){2}"
    r"|&\#[0-9]{2,7};)+"
)
# What a one-time code may look like where it stands without quotes: `482913`, `Kq7Zw3Xp`.
_CODE = re.compile(
    r"\b(?<!\*\*\*\*)(?!(?:msg|bat|evt|whe|chn|ten|key)_[0-9a-f]{16}\b)(?=\w*[0-9])[0-9A-Za-z_]{4,}\b"
)
_OURS = frozenset(
    (
        "adapters",
        "cluster",
        "compliance",
        "failover",
        "gateway",
        "loadtest",
        "ratelimit",
        "receipts",
    )
) | {"sms", "store", "supervisor", "telemetry", "webhooks"}
_LIBRARIES = ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "aiohttp", "asyncpg")


_WIDE_DIGITS = {0xFF10 + digit: str(digit) for digit in range(10)}  # as Chinese keyboards write


def _mask_phone(match: re.Match[str]) -> str:
    if match["keep"] is not None:
        return match["keep"]
    digits = re.sub(r"[^0-9]", "", match["phone"])
    if digits.startswith("0086"):
        digits = digits[4:]
    elif digits.startswith("86") and len(digits) == 13:
        digits = digits[2:]
    return f"{digits[:3]}****{digits[-4:]}"


def mask(text: str) -> str:
    """Return `text` without phone numbers, keys, tokens and passwords.

    Cut at `MAX_TEXT` characters. A mainland number loses its 86 first: `138****1234`.
    """
    is_long = len(text) > MAX_TEXT
    if is_long:
        text = text[: MAX_TEXT + _CUT_LATER]
    if not text.isascii():
        text = text.translate(_WIDE_DIGITS)
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    text = _PHONE.sub(_mask_phone, text)
    return text[:MAX_TEXT] + "…" if is_long else text


def mask_foreign(text: str, *, has_codes: bool = True) -> str:
    """What somebody else's code says, without what it may have been given.

    Shown are its own words, numbers of up to three digits, ids of ours and plain names in quotes;
    without `has_codes` longer numbers too, as ports are.
    """
    text = _hide_quoted(text[: MAX_TEXT + _CUT_LATER])
    text = mask(_FOREIGN.sub(HIDDEN, text))
    return _CODE.sub(_hide_code, text) if has_codes else text


def _hide_quoted(text: str) -> str:
    """From the first quote that holds no plain name to the last one of its kind, or to the end.

    A text may hold quotes itself, and a library cuts what it quotes: nothing between them is sure.
    """
    for match in _QUOTED.finditer(text):
        if match["end"] is not None and _NAME_LIKE.fullmatch(match["inner"]):
            continue
        start = match.start("inner")
        last = text.rfind(match["quote"], start)
        return text[:start] + HIDDEN + (text[last:] if last >= 0 else "")
    return text


def _hide_code(match: re.Match[str]) -> str:
    return match[0] if _NAME_LIKE.fullmatch(match[0]) else HIDDEN


def mask_exception(error: BaseException) -> str:
    """Type and message of an exception, fit for a log."""
    message = mask_words(error)
    name = type(error).__name__
    return f"{name}: {message}" if message else name


def mask_words(error: BaseException) -> str:
    """The message of an exception, fit for a log and for whoever is told a reason.

    Our own exceptions are written to be read and are masked as any text. A library's may quote
    the input (`mask_foreign`); the system's name files, addresses and ports.
    """
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - a __str__ that raises must not cost the line
        message = f"(no message: {type(broken).__name__})"
    if isinstance(error, GatewayError):
        return mask(message)
    message = _PG_DETAIL.sub(rf"\1: {HIDDEN}", message)
    message = _PYDANTIC_INPUT.sub(f"input_value={HIDDEN}", message)
    return mask_foreign(message, has_codes=not isinstance(error, OSError))


def _mask_value(name: str, value: object, depth: int = 0) -> Any:  # noqa: ANN401 - JSON
    if _SECRET_NAME.search(name) and not _SECRET_NAME_BUT.search(name):
        return HIDDEN if value not in (None, "") else value
    match value:
        case None | bool() | float():
            shown: Any = value
        case int():
            masked = mask(str(value))
            is_plain = masked == str(value) or _MEASURE_NAME.search(name)
            shown = value if is_plain else masked
        case str():
            shown = mask(value)
        case BaseException():
            shown = mask_exception(value)
        case _:
            shown = _mask_nested(name, value, depth)
    return shown


def _mask_nested(name: str, value: object, depth: int) -> Any:  # noqa: ANN401 - JSON
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            return {mask(str(k)): _mask_value(str(k), v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_mask_value(name, item, depth + 1) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"  # a PDU or a body: its content is nobody's here
    return mask_foreign(repr(value))  # of a class that nobody asked what it shows


def _traceback_text(error: BaseException) -> str:
    """The frames, and every exception of the chain with its message masked."""
    seen: set[int] = set()
    chain: list[tuple[BaseException, str]] = []
    current: BaseException | None = error
    link = ""
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        chain.append((current, link))
        if current.__cause__ is not None:
            current, link = current.__cause__, "was the direct cause of:"
        elif current.__context__ is not None and not current.__suppress_context__:
            current, link = current.__context__, "was being handled when this came:"
        else:
            current = None
    parts = []
    for member, after in reversed(chain):
        frames = "".join(traceback.format_tb(member.__traceback__, limit=-25))
        parts.append(f"{frames}{mask_exception(member)}" + (f"\n{after}" if after else ""))
        if isinstance(member, BaseExceptionGroup):
            parts.extend(f"  in the group:\n{_traceback_text(sub)}" for sub in member.exceptions)
    text = "\n".join(parts)
    return text if len(text) <= MAX_TRACEBACK else "…" + text[-MAX_TRACEBACK:]


def _error_of(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def _render_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    error = _error_of(event.pop("exc_info", None))
    event.pop("exc_text", None)
    if error is not None:
        event["exception"] = _traceback_text(error)
    return event


def _mask_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    done = ("at", "level", "exception")  # made by us, already safe
    if str(event.get("logger", "")).partition(".")[0] not in _OURS:
        event["event"] = mask_foreign(str(event.get("event", "")))
    return {
        key if key in done else mask(key): value if key in done else _mask_value(key, value)
        for key, value in event.items()
    }


def _render_line(_: WrappedLogger | None, __: str, event: EventDict) -> str:
    line = json.dumps(event, ensure_ascii=False, default=repr)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def render(fields: Mapping[str, object]) -> str:
    """One line as every line of a log is: JSON, masked, nothing in it that forges another one."""
    return _render_line(None, "", {mask(k): _mask_value(k, v) for k, v in fields.items()})


class _Handler(logging.StreamHandler[TextIO]):
    """A stream handler that counts warnings, and says nothing of a line it could not write.

    The standard one prints the message and its arguments, unmasked.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            written[record.levelname.lower(), record.name] += 1
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        kind = sys.exc_info()[0]
        name = kind.__name__ if kind is not None else "unknown"
        try:
            self.stream.write(
                f'{{"level": "error", "event": "log line lost", "logger": "telemetry.logs",'
                f' "cause": "{name}", "line": {record.lineno}}}\n'
            )
        except (OSError, ValueError):
            return  # the stream itself is gone: nowhere left to say it


def configure(
    level: str = "info", stream: TextIO | None = None, fields: Mapping[str, str] | None = None
) -> None:
    """Send all logs of this process to `stream` (default stderr) as JSON lines.

    `level` is a name such as `info`. `fields` stand in every line, say which process this is.
    Takes over the standard library's logging too, and uncaught exceptions. May be called again.
    Raises ValueError for a level that does not exist.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r} is unknown: use debug, info, warning or error")
    always = dict(fields or {})

    def add_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {**always, **event}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    handler = _Handler(stream if stream is not None else sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                add_fields,
                _render_exception,
                _mask_event,
                _render_line,
            ],
        )
    )
    _take_over(handler, number)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    sys.excepthook = _log_uncaught
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_uncaught_in_thread


def _take_over(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # uvicorn's access log is a line per request: the metrics tell that for less.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    get_logger("telemetry.logs").critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _log_unraisable(told: sys.UnraisableHookArgs) -> None:
    """An exception where nobody can catch it, in a `__del__` say; what it was about has a type."""
    get_logger("telemetry.logs").error(
        "exception ignored",
        about=type(told.object).__name__,
        exc_info=(told.exc_type, told.exc_value, told.exc_traceback),
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for one file: `log = get_logger(__name__)`; `log.info("what happened", key=value)`.

    May be called before `configure`.
    """
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
