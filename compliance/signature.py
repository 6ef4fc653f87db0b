"""The brand in front of a text: which one, and in which form.

Mainland numbers (+86) must see 【brand】 in front; we put it there, exactly once, and the text
itself must not hold such brackets, or a carrier could read a second signature out of it
(RELIABILITY section 12). Elsewhere a brand appears only when the tenant names one, and then as
`[brand] `: square brackets stand in the GSM 03.38 extension table, so GSM-7 stays possible.
Pure: nothing here knows tenants or the store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

MAINLAND = 86
MAX_BRAND = 20  # characters; brands longer than this are not filed by any mainland carrier


def is_brand(text: str) -> bool:
    """Whether `text` can be filed as a signature: 1 to 20 characters, no brackets or controls."""
    return (
        1 <= len(text) <= MAX_BRAND
        and text == text.strip()
        and text.isprintable()
        and not any(char in "【】[]" for char in text)
    )


def has_brackets(text: str) -> bool:
    """Whether a text holds signature brackets of its own."""
    return "【" in text or "】" in text


def choose_brand(
    given: str | None, filed: Sequence[str] | Collection[str], country: int
) -> tuple[str, str | None]:
    """Return (brand, None), or ("", code) when the text may not go out.

    The brand is "" where none is added. `filed` is in the tenant's order: the first one is the
    default for the mainland.
    """
    if given is not None:
        return (given, None) if given in filed else ("", "signature.unknown")
    if country != MAINLAND:
        return "", None
    for brand in filed:
        return brand, None
    return "", "signature.required"


def sign(text: str, brand: str, country: int) -> str:
    """The text as the phone shows it."""
    if not brand:
        return text
    return f"【{brand}】{text}" if country == MAINLAND else f"[{brand}] {text}"


def unsigned(text: str, country: int) -> str:
    """What `sign` may have put a brand in front of; the text itself where no brand stands there.

    Abroad a text may begin with brackets of its own: there this is a guess.
    """
    opening, closing = ("【", "】") if country == MAINLAND else ("[", "] ")
    brand, found, body = text.partition(closing)
    is_signed = found and brand.startswith(opening) and is_brand(brand[1:])
    return body if is_signed else text
