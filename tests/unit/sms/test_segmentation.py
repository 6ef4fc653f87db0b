"""Segmentation: nothing lost, nothing torn, 140 octets on the air; fast against slow."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sms import gsm, segmentation
from sms.model import Encoding
from sms.segmentation import NotGsm7, Segmentation, TooLong, payload, segment, usable_bits

GSM = Encoding.GSM7
UCS = Encoding.UCS2
FAMILY = "👨\u200d👩\u200d👧\u200d👦"
EMOJI = [
    "😀",
    FAMILY,
    "👍🏽",
    "❤️",
    "❤️\u200d🔥",
    "1️⃣",
    "#⃣",
    "🇨🇳",
    "🏴\U000e0067\U000e0062\U000e007f",
    "☝🏻",
]
ALPHABET = "".join(sorted(gsm.ALPHABET))

gsm_text = st.text(st.sampled_from(ALPHABET + "{}[]€" * 10), max_size=700)
pieces = st.one_of(
    st.sampled_from(
        ["验", "证码", "。", "a", "1", "㐂", "𠀀", "\u200d", "\ufe0f", "🇨", "中文短信" * 12]
    ),
    st.sampled_from(EMOJI),
)
mixed_text = st.lists(pieces, max_size=120).map("".join)
any_text = st.one_of(st.text(max_size=300), mixed_text, gsm_text)


def units(text):
    return sum(2 if ord(char) > 0xFFFF else 1 for char in text)


def is_after(char):
    code = ord(char)
    return (
        0xFE00 <= code <= 0xFE0F
        or code == 0x20E3
        or 0x1F3FB <= code <= 0x1F3FF
        or 0xE0020 <= code <= 0xE007F
    )


def is_picture(char):
    code = ord(char)
    return char in "©®" or 0x203C <= code <= 0x3299 or 0x1F000 <= code <= 0x1FAFF


def is_flag(char):
    return 0x1F1E6 <= ord(char) <= 0x1F1FF


def end_of_cluster(text, at):
    if is_flag(text[at]) and at + 1 < len(text) and is_flag(text[at + 1]):
        return at + 2
    if text[at] in "0123456789#*":
        for keycap in ("\u20e3", "\ufe0f\u20e3"):
            if text.startswith(keycap, at + 1):
                return at + 1 + len(keycap)
        return at + 1
    if not is_picture(text[at]):
        return at + 1
    end = at + 1
    while end < len(text):
        if is_after(text[end]):
            end += 1
        elif text[end] == "\u200d" and end + 1 < len(text) and is_picture(text[end + 1]):
            end += 2
        else:
            break
    return end


def slow_clusters(text):
    """The same idea, character by character: what may not be torn apart."""
    at, found = 0, []
    while at < len(text):
        end = end_of_cluster(text, at)
        found.append(text[at:end])
        at = end
    return found


def slow_segment(text):
    """Greedy, one cluster after the other, no short cut."""
    if all(char in gsm.ALPHABET for char in text):
        encoding, one, each, cost, atoms = GSM, 160, 153, gsm.septets, list(text)
    else:
        encoding, one, each, cost, atoms = UCS, 70, 67, units, slow_clusters(text)
    if cost(text) <= one:
        return Segmentation(encoding, (text,))
    texts, current = [], ""
    for atom in atoms:
        for part in [atom] if cost(atom) <= each else list(atom):
            if cost(current) + cost(part) > each:
                texts.append(current)
                current = ""
            current += part
    return Segmentation(encoding, (*texts, current))


@given(any_text)
@example("😀" * 36)
@example("a" * 66 + FAMILY)
@example("{" * 81)
@example("中" * 66 + "1️⃣" * 20)
def test_the_fast_way_cuts_like_the_slow_one(text):
    slow = slow_segment(text)
    fast = segment(text, max_segments=255)
    if isinstance(fast, TooLong):
        assert fast.segments == len(slow.texts) > 255
    else:
        assert fast == slow


@given(any_text)
def test_joined_the_segments_are_the_text_and_each_fits_the_air(text):
    cut = segment(text, max_segments=255)
    assert isinstance(cut, Segmentation)
    assert "".join(cut.texts) == text
    for index, part in enumerate(cut.texts):
        data, has_udh = payload(cut.texts, index, cut.encoding, 0x1234)
        assert has_udh == (len(cut.texts) > 1)
        header = 6 if has_udh else 0
        if has_udh:
            assert data[:6] == bytes((5, 0, 3, 0x34, len(cut.texts), index + 1))
        body = data[header:]
        if cut.encoding is GSM:
            assert gsm.decode(body) == part
            assert body[-1:] != b"\x1b"
            # packed: header padded to a septet boundary, then 7 bits each
            bits = -(-header * 8 // 7) * 7 + 7 * len(body)
            assert bits <= 140 * 8
        else:
            assert body.decode("utf-16-be") == part  # strict: no half surrogate pair
            assert len(data) <= 140


def whole(text, *args, **options) -> Segmentation:
    """The segmentation of a text that can be sent."""
    cut = segment(text, *args, **options)
    assert isinstance(cut, Segmentation)
    return cut


@given(mixed_text)
def test_an_emoji_that_fits_a_segment_is_never_torn(text):
    cut = whole(text, max_segments=255)
    ends, at = set(), 0
    for part in cut.texts:
        at += len(part)
        ends.add(at)
    at = 0
    for cluster in slow_clusters(text):
        if len(cluster) > 1 and units(cluster) <= 67:
            assert not any(at < end < at + len(cluster) for end in ends)
        at += len(cluster)


def lengths(text, **options):
    return [len(part) for part in whole(text, **options).texts]


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("", GSM, [0]),
        ("a" * 160, GSM, [160]),
        ("a" * 161, GSM, [153, 8]),
        ("a" * 306, GSM, [153, 153]),
        ("a" * 307, GSM, [153, 153, 1]),
        ("€" * 80, GSM, [80]),
        ("€" * 81, GSM, [76, 5]),  # 153 is odd: no cut after an escape
        ("a" + "€" * 80, GSM, [77, 4]),
        ("中" * 70, UCS, [70]),
        ("中" * 71, UCS, [67, 4]),
        ("中" * 134, UCS, [67, 67]),
        ("中" * 135, UCS, [67, 67, 1]),
        ("😀" * 35, UCS, [35]),
        ("😀" * 36, UCS, [33, 3]),  # 67 is odd: no cut inside a pair
        ("中" * 66 + "😀" * 3, UCS, [66, 3]),
        ("中" * 60 + FAMILY + "中", UCS, [60, 8]),  # 60 + 11 units do not fit 67
        ("中" * 56 + FAMILY + "中" * 4, UCS, [63, 4]),
        ("中" * 66 + "🇨🇳" * 2, UCS, [66, 4]),
        ("中" * 69 + "1️⃣", UCS, [67, 5]),
        ("😀" + "中" * 132, UCS, [66, 67]),  # both exactly full: nothing empty behind
        ("中" * 67 + "😀" + "中" * 65, UCS, [67, 66]),
    ],
)
def test_where_the_cuts_fall(text, encoding, expected):
    assert whole(text).encoding is encoding
    assert lengths(text) == expected


def test_an_emoji_too_long_for_any_segment_is_cut_between_code_points():
    monster = "\u200d".join(["👨"] * 40)  # 119 units
    cut = whole(monster)
    assert "".join(cut.texts) == monster
    assert [units(part) for part in cut.texts] == [
        66,
        53,
    ]  # 22 × (2 + 1); the next pair would be torn


def test_five_hundred_chinese_characters():
    assert lengths("短" * 500) == [67] * 7 + [31]


def test_too_many_segments_are_counted():
    assert segment("a" * 1531) == TooLong(11)
    assert lengths("a" * 1530) == [153] * 10
    assert segment("中" * 68 * 3, max_segments=3) == TooLong(4)
    assert segment("中" * 71, max_segments=1) == TooLong(2)
    assert whole("中" * 70, max_segments=1).texts == ("中" * 70,)
    assert isinstance(segment("a" * 153 * 256, max_segments=1000), TooLong)
    # the waste at the cuts makes one more than the units alone
    assert segment("😀" * 67, max_segments=2) == TooLong(3)
    assert segment("€" * 153, max_segments=2) == TooLong(3)


def test_gsm7_only_when_it_fits():
    assert segment("abc“中“", "gsm7") == NotGsm7(("“", "中"))
    assert segment("abc", "gsm7") == Segmentation(GSM, ("abc",))
    assert segment("abc", Encoding.UCS2) == Segmentation(UCS, ("abc",))
    assert lengths("a" * 71, encoding="ucs2") == [67, 4]


def test_smart_replaces_only_when_that_makes_it_gsm7():
    assert segment("“It’s” – ok…", smart=True) == Segmentation(GSM, ('"It\'s" - ok...',))
    assert segment("“It’s” 中", smart=True) == Segmentation(UCS, ("“It’s” 中",))
    assert segment("“It’s”") == Segmentation(UCS, ("“It’s”",))
    assert segment("“It’s”", "ucs2", smart=True) == Segmentation(UCS, ("“It’s”",))
    assert whole("“It’s”", "gsm7", smart=True).encoding is GSM
    assert segment("“中”", "gsm7", smart=True) == NotGsm7(("中",))
    assert segment("plain", smart=True) == Segmentation(GSM, ("plain",))


def test_every_replacement_is_gsm7_and_no_letter_is_replaced():
    from sms.segmentation import _LOOKALIKES

    for code, plain in _LOOKALIKES.items():
        assert gsm.is_gsm7(plain)
        assert not gsm.is_gsm7(chr(code))
        # the modifier letters U+02B9…U+02C6 are quotes; an alphabet's letters are not in it
        assert not chr(code).isalpha() or 0x2B9 <= code <= 0x2C6


def test_a_lone_surrogate_is_cut_but_never_encoded():
    cut = whole("中" * 71 + "\ud83d")
    assert "".join(cut.texts) == "中" * 71 + "\ud83d"
    with pytest.raises(UnicodeEncodeError):
        payload(cut.texts, 1, UCS, 1)


def test_a_single_segment_has_no_header():
    assert payload(("a€",), 0, GSM, 9) == (b"a\x1be", False)
    assert payload(("中",), 0, UCS, 9) == (b"\x4e\x2d", False)


@given(st.text(max_size=700), st.sampled_from(["auto", "ucs2"]))
def test_a_wide_cut_leaves_room_for_a_16_bit_reference(text, encoding):
    cut = segment(text.replace("\0", " "), encoding, max_segments=255, is_wide=True)
    assert isinstance(cut, Segmentation)
    assert "".join(cut.texts) == text.replace("\0", " ")
    assert usable_bits(cut.texts, cut.encoding, 16) == 16 or len(cut.texts) == 1
    for index in range(len(cut.texts)):
        data, has_udh = payload(cut.texts, index, cut.encoding, 0x1234, 16)
        if not has_udh:
            assert len(cut.texts) == 1
            continue
        assert data[:7] == bytes((6, 8, 4, 0x12, 0x34, len(cut.texts), index + 1))
        septets = len(data) - 7
        assert septets <= 152 if cut.encoding is Encoding.GSM7 else len(data) <= 140


def test_a_text_cut_before_its_channel_had_16_bits_keeps_8():
    cut = segment("好" * 134)
    assert isinstance(cut, Segmentation)
    bits = usable_bits(cut.texts, cut.encoding, 16)
    assert [payload(cut.texts, n, cut.encoding, 0x1234, bits)[0][:6] for n in range(2)] == [
        bytes((5, 0, 3, 0x34, 2, 1)),
        bytes((5, 0, 3, 0x34, 2, 2)),
    ]


@pytest.mark.parametrize("encoding", ["gsm7", "ucs2"])
def test_a_text_is_measured_once_not_once_for_each_segment(encoding, monkeypatch):
    cut = segment("a" * 60 * 200, encoding, max_segments=255, is_wide=True)
    assert isinstance(cut, Segmentation)
    measured = 0
    module, name = (gsm, "septets") if encoding == "gsm7" else (segmentation, "_units")
    measure = getattr(module, name)

    def counted(text):
        nonlocal measured
        measured += 1
        return measure(text)

    monkeypatch.setattr(module, name, counted)
    bits = usable_bits(cut.texts, cut.encoding, 16)
    for index in range(len(cut.texts)):
        payload(cut.texts, index, cut.encoding, 7, bits)
    assert measured == len(cut.texts)
