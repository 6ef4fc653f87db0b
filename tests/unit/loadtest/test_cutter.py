"""The proxy that loses a COMMIT: how it reads the protocol."""

import struct

import pytest

from loadtest.campaign.cutter import Messages


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", 4 + len(body)) + body


STARTUP = struct.pack(">II", 16, 196608) + b"user\0\0\0\0"
QUERY = message(b"Q", b"INSERT INTO claims; COPY messages (id) FROM STDIN\0")
DATA = message(b"d", b"x" * 5000)
DONE = message(b"c", b"")


@pytest.mark.parametrize("size", [1, 3, 7, 100, 10_000])
def test_messages_come_out_whole_and_in_order_however_the_bytes_arrive(size):
    stream = STARTUP + QUERY + DATA + DONE
    messages = Messages(has_startup=True)
    found = []
    for start in range(0, len(stream), size):
        found += messages.feed(stream[start : start + size])
    assert [kind for kind, _ in found] == [b"", b"Q", b"d", b"c"]
    assert b"".join(data for _, data in found) == stream


def test_a_servers_stream_has_no_startup_packet():
    stream = message(b"R", b"\0\0\0\0") + message(b"Z", b"I")
    assert [kind for kind, _ in Messages(has_startup=False).feed(stream)] == [b"R", b"Z"]
