"""The receivers of docs/webhooks.md in Node.js and Java, run as they stand there."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from webhooks import sign

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text("utf-8")
BODY = json.dumps({"id": "evt_1", "type": "message.delivered", "text": "送达"}).encode()
NODE = """
import { verify } from "./webhooks.mjs";
for (const one of JSON.parse(process.argv[2])) {
  try {
    const told = verify(one.secrets, one.headers, Buffer.from(one.body, "base64"));
    console.log(told.text === "送达" ? "right" : "wrong body");
  } catch (error) {
    console.log(error.message.split(":")[0]);
  }
}
"""
JAVA = """
import java.util.*;
public class Main {
    public static void main(String[] words) throws Exception {
        for (int at = 0; at + 4 < words.length; at += 5) {
            Map<String, String> headers = Map.of("webhook-id", words[at + 1],
                "webhook-timestamp", words[at + 2], "webhook-signature", words[at + 3]);
            System.out.println(Webhooks.isRight(List.of(words[at].split(",")), headers,
                Base64.getDecoder().decode(words[at + 4])));
        }
    }
}
"""


def block(language: str) -> str:
    return PAGE.split(f"```{language}\n", 1)[1].split("```", 1)[0]


def requests() -> tuple[list[dict[str, Any]], list[bool]]:
    """Requests, and which of them are right."""
    (old, old_key), (new, new_key), (other, _) = (sign.new_secret() for _ in range(3))
    now = int(time.time())
    both = dict(sign.headers([new_key, old_key], "evt_1", now, BODY))
    late = dict(sign.headers([new_key], "evt_1", now - 301, BODY))
    some = [
        ([old], both, BODY, True),
        ([other, new], both, BODY, True),
        ([other], both, BODY, False),
        ([new], both, BODY + b" ", False),
        ([new], late, BODY, False),
    ]
    told: list[dict[str, Any]] = [
        {"secrets": secrets, "headers": headers, "body": base64.b64encode(body).decode()}
        for secrets, headers, body, _ in some
    ]
    return told, [is_right for *_, is_right in some]


def run(folder: Path, *command: str) -> list[str]:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js here")
def test_node_takes_what_either_secret_signed_and_nothing_else(tmp_path):
    told, right = requests()
    (tmp_path / "webhooks.mjs").write_text(block("js"), "utf-8")
    (tmp_path / "main.mjs").write_text(NODE, "utf-8")
    said = run(tmp_path, "node", "main.mjs", json.dumps(told))
    assert [line == "right" for line in said] == right
    assert said[2:] == ["the signature is not right"] * 2 + ["too old"]


@pytest.mark.skipif(shutil.which("javac") is None, reason="no Java compiler here")
def test_java_takes_what_either_secret_signed_and_nothing_else(tmp_path):
    told, right = requests()
    (tmp_path / "Webhooks.java").write_text(block("java"), "utf-8")
    (tmp_path / "Main.java").write_text(JAVA, "utf-8")
    run(tmp_path, "javac", "-encoding", "UTF-8", "Main.java", "Webhooks.java")
    words = []
    for one in told:
        headers = one["headers"]
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        words += [",".join(one["secrets"]), *(headers[name] for name in names), one["body"]]
    said = run(tmp_path, "java", "-cp", str(tmp_path), "Main", *words)
    assert [line == "true" for line in said] == right
