"""Channels and submits for the tests of HTTP vendors."""

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from adapters.http.vendor import Call, CallKind, Reply
from sms import config, gsm
from sms.model import Carrier, Encoding, Filled, Message, MessageClass, Submit

SECRET = "a-long-enough-secret"


def channel(protocol: str, settings: Mapping[str, object], sender: str = "") -> config.Channel:
    return config.Channel(id=7, name="backup", protocol=protocol, settings=settings, sender=sender)


def submit(
    number: str = "8613800138000",
    text: str = "【Acme】Your code is 123456",
    *,
    sender: str = "",
    validity_s: int = 300,
    id: int = 0x0123456789ABCDEF,
    attempt: int = 1,
    filled: Filled | None = None,
    texts: Sequence[str] = (),
) -> Submit:
    encoding = Encoding.GSM7 if gsm.is_gsm7(text) else Encoding.UCS2
    message = Message(
        id=id,
        tenant=1,
        message_class=MessageClass.OTP,
        number=number,
        carrier=Carrier.CM,
        country=86,
        encoding=encoding,
        texts=tuple(texts) or (text,),
        valid_until=0.0,
        created_at=0.0,
    )
    payload = gsm.encode(text) if encoding is Encoding.GSM7 else text.encode("utf-16-be")
    return Submit(
        message=message,
        segment=0,
        total=1,
        number=number,
        sender=sender,
        encoding=encoding,
        payload=payload,
        has_udh=False,
        validity_s=validity_s,
        attempt=attempt,
        filled=filled,
    )


def reply(status: int, body: bytes | str, **headers: str) -> Reply:
    raw = body.encode() if isinstance(body, str) else body
    return Reply(status, {key.replace("_", "-"): value for key, value in headers.items()}, raw)


def call(
    body: bytes | str,
    *,
    kind: CallKind = CallKind.RECEIPTS,
    url: str = f"https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts?secret={SECRET}",
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
) -> Call:
    raw = body.encode() if isinstance(body, str) else body
    return Call(kind, method, url, headers or {}, raw, 1_800_000_000.0)


NUMBERS = st.from_regex(r"[1-9][0-9]{6,14}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200)
SENDERS = st.sampled_from(["", "Acme", "106900001234", "A&B +1"])


@st.composite
def submits(draw: st.DrawFn, most: int = 4) -> list[Submit]:
    """A few submits, each of a message of its own."""
    ids = draw(st.lists(st.integers(1, (1 << 63) - 1), min_size=1, max_size=most, unique=True))
    return [
        submit(
            draw(NUMBERS),
            draw(TEXTS),
            sender=draw(SENDERS),
            validity_s=draw(st.integers(1, 300_000)),
            id=one,
            attempt=draw(st.integers(1, 4)),
        )
        for one in ids
    ]
