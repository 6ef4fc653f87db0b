"""What `make load` sends: to whom, which text, which class, for which tenant. No I/O but its data.

    index ─▶ one message, always the same: number, text, class
    number ─▶ index again, so that carriers' and the sink's records can be matched with it

Every number of a run is another one, out of the ranges of all carriers and provinces
(`data/ranges-cn.json`) and, every tenth, of a country where texts are GSM-7. Texts take one to
three segments; a mainland text is UCS-2 whatever it holds, since it carries its signature 【…】.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ABROAD_EVERY: Final = 10  # messages
_ABROAD: Final = "121"  # country code 1 and two digits more; eight digits of the index follow
_TAILS: Final = 10_000  # numbers in a range
_STEP: Final = 2_654_435_761  # Knuth's multiplier: neighbours in index differ in everything else


@dataclass(frozen=True, slots=True)
class TenantShare:
    """One customer of the scenario and its share of the traffic."""

    name: str
    signature: str
    share: float


# One large customer, some middling ones, a tail; their brands go in front of mainland texts.
TENANTS: Final = (
    TenantShare("load-mall", "云上商城", 0.40),
    TenantShare("load-bank", "江海银行", 0.20),
    TenantShare("load-parcel", "快马速运", 0.14),
    TenantShare("load-travel", "山河旅行", 0.08),
    TenantShare("load-clinic", "安和门诊", 0.06),
    TenantShare("load-school", "启明学堂", 0.05),
    TenantShare("load-game", "星火互娱", 0.04),
    TenantShare("load-gov", "市民之家", 0.03),
)

# (parts per hundred, class, text at home, text abroad); %06d is the index.
_KINDS: Final = (
    (
        30,
        "otp",
        "您的验证码是%06d，5分钟内有效，请勿告诉他人。",
        "Your code is %06d. It expires in 5 minutes.",
    ),
    (
        32,
        "transactional",
        "您的订单%06d已由快递发出，预计明天送达，请留意查收。",
        "Your parcel %06d is on its way and should reach you tomorrow.",
    ),
    (
        14,
        "transactional",
        "尊敬的客户：您预约的%06d号上门维修服务已安排在明天下午14:00至16:00之间，工程师会提前半小时"
        "与您电话联系，请保持电话畅通；如需改期，请在今天20:00前回复或登录网站办理。",
        "Dear customer, your repair visit %06d is booked for tomorrow between 2 pm and 4 pm. The "
        "engineer will call half an hour before. To change the time, please reply or visit our "
        "site before 8 pm today.",
    ),
    (
        4,
        "transactional",
        "尊敬的客户：您编号%06d的账户本月对账单已生成。期初余额、本期收入、本期支出、期末余额及各项"
        "明细请登录手机银行或前往任一网点查询；如对账单内容有任何疑问，请于收到本通知之日起三十日内与我行"
        "联系，逾期未提出异议的，视为对账无误。为保障您的资金安全，请勿向任何人透露密码、验证码等信息，"
        "也不要点击来历不明的链接。感谢您长期以来的信任与支持。",
        "Dear customer, the statement of account %06d for this month is ready. Please sign in to "
        "see the opening balance, income, spending, closing balance and every single booking. If "
        "you disagree with anything, tell us within thirty days of this notice; after that the "
        "statement counts as accepted. Never tell anyone your password or a code, and do not "
        "follow links that you did not expect. Thank you for your trust.",
    ),
    (
        20,
        "marketing",
        "会员专享：本周六全场满200减%06d分，新品同步上架，欢迎选购。",
        "Members only: new arrivals this Saturday, save %06d cents on orders above 20.",
    ),
)
_PICK: Final = tuple(kind for kind in _KINDS for _ in range(kind[0]))


def _load_ranges() -> tuple[tuple[str, str, str], ...]:
    """(seven digits, carrier, province), in an order that mixes carriers and provinces."""
    text = Path(__file__).with_name("data").joinpath("ranges-cn.json").read_text("utf-8")
    found = [
        (head, carrier, province)
        for province, carriers in json.loads(text)["ranges"].items()
        for carrier, heads in carriers.items()
        for head in heads
    ]
    # By the last digits first: else a run of indexes would stay in one province.
    return tuple(sorted(found, key=lambda entry: (entry[0][::-1], entry[0])))


RANGES: Final = _load_ranges()
LAST: Final = len(RANGES) * _TAILS - 1  # the greatest index
_PLACES: Final = {head: place for place, (head, _, _) in enumerate(RANGES)}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message as the tenant would give it."""

    to: str
    text: str
    message_class: str

    def entry(self) -> dict[str, str]:
        """As a JSON object of the API."""
        return {"to": self.to, "text": self.text, "class": self.message_class}


def number_of(index: int) -> str:
    """Whom message `index` goes to; digits without `+`, no number twice up to `LAST`."""
    if index % ABROAD_EVERY == ABROAD_EVERY - 1:
        return f"{_ABROAD}{index:08d}"
    tail, place = divmod(index, len(RANGES))
    return f"86{RANGES[place][0]}{tail:04d}"


def index_of(digits: str) -> int | None:
    """The message that goes to this number (with or without `+`), None for a stranger."""
    digits = digits.removeprefix("+")
    if digits.startswith(_ABROAD) and len(digits) == 11:
        index = int(digits[3:])
        return index if index % ABROAD_EVERY == ABROAD_EVERY - 1 else None
    place = _PLACES.get(digits[2:9]) if digits.startswith("86") and len(digits) == 13 else None
    if place is None:
        return None
    index = int(digits[9:]) * len(RANGES) + place
    return index if index % ABROAD_EVERY != ABROAD_EVERY - 1 else None


def message_of(index: int) -> Outgoing:
    """Message `index`, 0 … `LAST`: its class and length follow from the index alone."""
    _, message_class, home, abroad = _PICK[(index * _STEP >> 16) % 100]
    number = number_of(index)
    text = home if number.startswith("86") else abroad
    return Outgoing(f"+{number}", text % (index % 1_000_000), message_class)


def body_of(first: int, count: int) -> bytes:
    """The JSON body of one request: a single message, or a batch of `count`."""
    if count == 1:
        return json.dumps(message_of(first).entry(), ensure_ascii=False).encode()
    entries = [message_of(index).entry() for index in range(first, first + count)]
    return json.dumps({"messages": entries}, ensure_ascii=False).encode()


def spread_users(users: int) -> Iterator[int]:
    """Which tenant each of `users` simulated users sends for, by share, the large one first.

    Yields for ever; any run of `users` values has every tenant about its share of times.
    """
    given = [0.0] * len(TENANTS)
    while True:
        for place, tenant in enumerate(TENANTS):
            given[place] += tenant.share
        place = max(range(len(TENANTS)), key=given.__getitem__)
        given[place] -= 1.0
        yield place


@dataclass(frozen=True, slots=True)
class Stage:
    """So long (seconds from the start) that share of the full rate is sent."""

    until_s: float
    share: float


def steady(seconds: float) -> tuple[Stage, ...]:
    """The full rate all the time."""
    return (Stage(seconds, 1.0),)


def steps(seconds: float) -> tuple[Stage, ...]:
    """A quarter of the rate more every quarter of the time."""
    return tuple(Stage(seconds * part / 4, part / 4) for part in range(1, 5))


def spike(seconds: float) -> tuple[Stage, ...]:
    """Half the rate, then three times as much for a tenth of the time, then half again."""
    return (Stage(seconds * 0.45, 0.5), Stage(seconds * 0.55, 1.5), Stage(seconds, 0.5))


SHAPES: Final = {"steady": steady, "steps": steps, "spike": spike}


def share_at(stages: tuple[Stage, ...], at_s: float) -> float | None:
    """The share of the full rate at a moment, None when the shape is over."""
    return next((stage.share for stage in stages if at_s < stage.until_s), None)
