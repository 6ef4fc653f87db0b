"""The published test vectors of signed requests, made without any code of the gateway.

python -m tests.support.sign_vectors > docs/signing-vectors.json
"""

import hashlib
import hmac
import json
import sys
from typing import Any

SECRET = "smsgw_signing_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefgaa8a8c48"
KEY = "key_0000800000000001"

# what it shows, method, path as sent, query as sent, body, timestamp, nonce
CASES: list[tuple[str, str, str, str, bytes, int, str]] = [
    (
        "an ordinary send",
        "POST",
        "/v1/messages",
        "",
        '{"to":"+8613800138000","text":"验证码 482913，5 分钟内有效。","class":"otp"}'.encode(),
        1800000000,
        "6f1c2f1e0f9a4d7c8e55a0b1c2d3e4f5",
    ),
    ("a read: the body is empty", "GET", "/v1/messages/msg_0000000000000001", "", b"", 1800000001,
     "n-1"),
    ("query pairs are sorted by their bytes", "GET", "/v1/tenants", "limit=2&cursor=Zm9v", b"",
     1800000002, "n-2"),
    ("upper case sorts before lower case, a repeated pair stays", "GET", "/v1/tenants",
     "b=2&a=1&B=3&a=0&a=1", b"", 1800000003, "n-3"),
    ("nothing is decoded: neither the path nor the query", "GET", "/v1/messages/msg%5F1",
     "q=%E4%BD%A0+x&q=%e4%bd%a0", b"", 1800000004, "n-4"),
    ("empty pairs count, and a name without =", "GET", "/v1/tenants", "b&&a=", b"", 1800000005,
     "n-5"),
    ("the body is signed byte by byte, white space and line ends too", "POST", "/v1/messages", "",
     b'{"to": "+8613800138000",\r\n "text": "x"}\n', 1800000006, "!~.-_:/+="),
    ("the longest nonce", "POST", "/v1/batches", "", b"{}", 1800000007, "f" * 128),
]  # fmt: skip


def sign(
    secret: str, method: str, path: str, query: str, body: bytes, timestamp: int, nonce: str
) -> tuple[str, str]:
    """(what is signed, the signature): written from the text of the contract alone."""
    pairs = sorted(query.encode().split(b"&"))
    lines = [
        method.encode(),
        path.encode(),
        b"&".join(pairs),
        hashlib.sha256(body).hexdigest().encode(),
        str(timestamp).encode(),
        nonce.encode(),
    ]
    text = b"\n".join(lines)
    return text.decode(), hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def document() -> dict[str, Any]:
    """What stands in docs/signing-vectors.json."""
    vectors = []
    for shows, method, path, query, body, timestamp, nonce in CASES:
        text, signature = sign(SECRET, method, path, query, body, timestamp, nonce)
        vectors.append(
            {
                "shows": shows,
                "method": method,
                "path": path,
                "query": query,
                "body": body.decode(),
                "headers": {
                    "X-Smsgw-Key": KEY,
                    "X-Smsgw-Timestamp": str(timestamp),
                    "X-Smsgw-Nonce": nonce,
                    "X-Smsgw-Signature": signature,
                },
                "string_to_sign": text,
            }
        )
    about = "Signed requests: see signing.md. The secret is an example and opens nothing."
    return {"about": about, "signing_secret": SECRET, "vectors": vectors}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), ensure_ascii=False, indent=1) + "\n")
