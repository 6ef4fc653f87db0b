"""What OpenSSL says, told to a person; real handshakes: tests/integration/test_store_tls.py."""

from __future__ import annotations

import pytest

from sms.tlswords import POSTGRES, tls_trouble


class SSLError(OSError):
    """One by its name, as libraries' copies of it are."""

    reason: str | None = ""
    verify_code: int | None = None


def verification(code):
    error = SSLError()
    error.verify_code = code
    return error


def broken(reason):
    error = SSLError()
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (verification(62), ("not for the host", "SMSGW_DATABASE_URL")),
        (verification(64), ("not for the host",)),
        (verification(20), ("nobody we trust", "sslrootcert")),
        (verification(10), ("has expired", "renew it there")),
        (verification(9), ("not valid yet", "clocks")),
        (verification(23), ("cannot be trusted", "23")),
        (broken("TLSV1_ALERT_PROTOCOL_VERSION"), ("none of TLS 1.2",)),
        (broken("UNSUPPORTED_PROTOCOL"), ("none of TLS 1.2",)),
        (broken("WRONG_VERSION_NUMBER"), ("does not speak TLS", "port")),
        (broken("TLSV13_ALERT_CERTIFICATE_REQUIRED"), ("refuses us", "sslcert")),
        (broken("DECRYPTION_FAILED"), ("broke off", "DECRYPTION_FAILED")),
        (broken(None), ("broke off", "no reason given")),
    ],
)
def test_what_went_wrong_has_a_remedy(error, words):
    told = str(tls_trouble(error, POSTGRES))
    assert all(word in told for word in words)


def test_it_is_found_behind_a_library_s_own_error_and_nowhere_else():
    outer = ConnectionError()
    outer.__cause__ = verification(10)
    assert "expired" in str(tls_trouble(outer, POSTGRES))
    assert tls_trouble(ConnectionRefusedError(), POSTGRES) is None
