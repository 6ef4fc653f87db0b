"""Schemathesis over the OpenAPI document, against a whole gateway: what the door says holds.

For every operation of `/openapi.json` requests that fit it and requests that do not, with the
right key and with others. No answer may be a 500 or a 503, each must have a status, a content type
and a body that the document names, and no refusal may repeat what it was sent. Nothing here makes
the gateway call anybody: the only webhooks are those to the sandbox's own sink.

What RELIABILITY section 11 names is tried on every route by itself: bodies that no right request
has, and queries of that kind. A route that is added to the document is tried without a word here.

The requests are the same in every run; `FUZZ_SEED=n` makes others up.
"""

import contextlib
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.audited import LEFT_OUT, Audited
from tests.support.gateway_process import GatewayProcess

Operation: TypeAlias = schemathesis.APIOperation[Any, Any, Any, Any]
Case: TypeAlias = schemathesis.Case[Any]
pytestmark = pytest.mark.integration

SEED = int(os.environ.get("FUZZ_SEED") or 1)
EXAMPLES = 20  # of each operation in each mode; to make one up takes longer than to answer it
BUDGET_S = 20.0  # for all of them; a slow machine tries fewer, but not fewer than
LEAST = 3
OF_THE_PLATFORM = (
    *("/v1/tenants", "/v1/admin-keys", "/v1/audit-events", "/v1/ported-numbers"),
    *("/v1/templates", "/v1/channels", "/v1/routes", "/v1/canaries"),
)
NOTHING_TO_SAY = ("/metrics", "/healthz", "/readyz")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
_names = itertools.count()


@dataclass
class Rig:
    """The running gateway, its keys, and ids that lead somewhere."""

    gateway: GatewayProcess
    session: requests.Session
    keys: dict[str, str]
    ids: dict[str, str] = field(default_factory=dict)
    seen: dict[str, Counter[int]] = field(default_factory=dict)  # statuses by operation
    answer: Any = None  # the last one, where it was JSON

    def admin(self, path: str, body: object) -> dict[str, Any]:
        answer = self.gateway.request("POST", path, body, key=self.keys["admin"])
        assert answer.status_code == 201, answer.text
        told: dict[str, Any] = answer.json()
        return told


RESEND = "/v1/messages/{id}:resend"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with GatewayProcess(webhook_changes_per_min="100000") as gateway, requests.Session() as session:
        session.trust_env = False
        made = Rig(gateway, session, {"admin": gateway.sandbox["admin_key"]})
        fields = {"name": "fuzzed", "signatures": ["某商城"], "countries": [86, 1]}
        tenant = made.admin("/v1/tenants", fields)["id"]
        keys = f"/v1/tenants/{tenant}/api-keys"
        for scope in ("send", "read"):
            made.keys[scope] = made.admin(keys, {"name": scope, "scopes": [scope]})["key"]
        hooked = made.admin("/v1/tenants", {"name": "hooked"})["id"]  # it has nothing to be told of
        both = {"name": "both", "scopes": ["send", "read"]}
        made.keys["hooked"] = made.admin(f"/v1/tenants/{hooked}/api-keys", both)["key"]
        account = {"protocol": "smpp", "host": "127.0.0.1", "port": 1, "system_id": "usual"}
        drained = {**account, "name": "usual", "password": "x", "admin_state": "draining"}
        made.admin("/v1/channels", drained)  # what canaries are measured against
        fill(made)
        yield made


def fill(rig: Rig) -> None:
    """One of everything that an operation may be asked about, of tenants that may be spoilt."""
    spoilt = rig.admin("/v1/tenants", {"name": f"spoilt-{next(_names)}"})["id"]
    key = rig.admin(f"/v1/tenants/{spoilt}/api-keys", {"name": "spoilt"})["id"]
    admin_key = rig.admin("/v1/admin-keys", {"name": f"spoilt-{next(_names)}"})["id"]
    named = {"name": f"spoilt-{next(_names)}", "class": "otp", "text": "{code}"}
    template = rig.admin("/v1/templates", named)["id"]
    account = {"protocol": "smpp", "host": "127.0.0.1", "port": 1, "system_id": named["name"]}
    drained = {**account, "name": named["name"], "password": "x", "admin_state": "draining"}
    channel = rig.admin("/v1/channels", drained)["id"]  # it never connects
    route = rig.admin("/v1/routes", {"tenant": spoilt, "channels": ["mobile-a"]})["id"]
    tried = rig.admin("/v1/routes", {"tenant": spoilt, "country": 86, "channels": ["usual"]})["id"]
    canary = fresh_canary(rig, tried)
    later = datetime.now(UTC) + timedelta(days=1)  # still to be had back, paused and resumed
    body = {"to": "+8613800138000", "text": "您的包裹已到", "send_at": later.isoformat()}
    message = batch = None
    while message is None or batch is None:  # the keys come into force within 5 s
        sent = rig.gateway.request("POST", "/v1/messages", body, key=rig.keys["send"])
        several = {"messages": [body]}
        many = rig.gateway.request("POST", "/v1/batches", several, key=rig.keys["send"])
        message, batch = sent.json().get("id"), many.json().get("id")
    entry = rig.gateway.request(
        "POST", "/v1/suppressions", {"to": "+8613800138111"}, key=rig.keys["send"]
    ).json()["id"]
    endpoint = fresh_endpoint(rig)
    rig.ids = {
        "/v1/tenants/{id}": spoilt,
        "key_id": key,
        "/v1/admin-keys/{key_id}": admin_key,
        "/v1/messages/{id}": message,
        "/v1/batches/{id}": batch,
        "/v1/suppressions/{id}": entry,
        "/v1/templates/{id}": template,
        "/v1/channels/{id}": channel,
        "/v1/routes/{id}": route,
        "/v1/webhook-endpoints/{id}": endpoint,
        "/v1/canaries/{id}": canary,
    }


def fresh_endpoint(rig: Rig) -> str:
    """A new one; that of before goes, for a tenant has a hundred at most."""
    hooks, key = "/v1/webhook-endpoints", rig.keys["hooked"]
    before = rig.ids.get(f"{hooks}/{{id}}")
    if before is not None:
        rig.gateway.request("DELETE", f"{hooks}/{before}", key=key)
    hook = {"url": f"https://backend.example/{next(_names)}"}
    while True:  # the key comes into force within 5 s
        made = rig.gateway.request("POST", hooks, hook, key=key)
        if made.status_code != 401:
            assert made.status_code == 201, made.text
            return str(made.json()["id"])


def fresh_canary(rig: Rig, route: str) -> str:
    """A live one; that of before is over, for a channel is in one only."""
    before = rig.ids.get("/v1/canaries/{id}")
    if before is not None:
        rig.gateway.request("POST", f"/v1/canaries/{before}:abort", key=rig.keys["admin"])
    named = {"name": f"spoilt-{next(_names)}", "route": route, "channel": "telecom-a"}
    return str(rig.admin("/v1/canaries", named)["id"])


def known_id(rig: Rig, path: str, name: str) -> str | None:
    """An id that leads somewhere from this path."""
    for head, known in rig.ids.items():
        if path.startswith(head) and f"{{{name}}}" in head:
            return known
    return rig.ids["key_id"] if name == "key_id" else None


def right_key(operation: Operation | SimpleNamespace) -> str:
    if operation.path.startswith(OF_THE_PLATFORM) or operation.path == RESEND:
        return "admin"
    if operation.path.startswith("/v1/webhook-endpoints"):
        return "hooked"
    is_read = operation.method == "get" or operation.path.endswith(":search")
    return "read" if is_read else "send"


def check(rig: Rig, case: Case, key: str | None) -> int:
    """One request and all that its answer must be; returns the status."""
    headers = {"authorization": f"Bearer {rig.keys[key]}"} if key else None
    for name in list(case.headers or ()):  # without a key of ours what was generated stays
        if key and name.lower().startswith(("authorization", "x-smsgw-")):
            del case.headers[name]
    response = case.call(session=rig.session, headers=headers)
    rig.seen.setdefault(case.operation.label, Counter())[response.status_code] += 1
    case.validate_response(response, checks=CHECKS)
    said = response.content.decode("utf-8", "replace")
    rig.answer = response.json() if said.startswith("{") else None
    assert "Traceback" not in said
    assert "asyncpg" not in said
    if response.status_code >= 400:
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["detail"]
        assert problem["action"]
        if response.status_code == 422:
            # what is wrong with a body names its fields; the others say what they are about
            of_a_field = not problem["code"].startswith(("query.", "idempotency.", "version."))
            assert problem["errors"] or not of_a_field, problem
    return int(response.status_code)


class Enough(Exception):
    """The time of this operation is over."""


def fuzz(rig: Rig, operation: Operation, mode: GenerationMode, until: float) -> None:
    right = right_key(operation)
    keys = st.sampled_from([right] * 7 + ["send", "read", "admin", None])
    tried = itertools.count()

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), key=keys, is_known=st.booleans())
    def one(case: Case, key: str | None, is_known: bool) -> None:
        if next(tried) >= LEAST and time.monotonic() > until:
            raise Enough
        for name in case.path_parameters if is_known else ():
            found = known_id(rig, operation.path, name)
            if found is not None:
                case.path_parameters[name] = found
        check(rig, case, key)

    with contextlib.suppress(Enough):
        one()


@pytest.fixture(scope="module")
def operations(rig: Rig) -> list[Operation]:
    schema = schemathesis.openapi.from_dict(document(rig))
    schema.config.update(base_url=rig.gateway.url)
    found = [one.ok() for one in schema.get_all_operations() if isinstance(one, Ok)]
    assert len(found) == sum(len(methods) for methods in document(rig)["paths"].values()) > 30
    return found


def version_of(rig: Rig, operation: Operation, places: dict[str, str]) -> int | None:
    """The version of the object that is to change, None where there is none yet."""
    path = operation.path.partition(":")[0]
    if not places:
        return None
    answer = rig.gateway.request("GET", path.format(**places), key=rig.keys[right_key(operation)])
    told = answer.json()
    return told.get("version") if isinstance(told, dict) else None


def newest_changes(rig: Rig) -> list[dict[str, Any]]:
    told = rig.gateway.request("GET", "/v1/audit-events?limit=50", key=rig.keys["admin"]).json()
    rows: list[dict[str, Any]] = told["data"]
    return rows


def test_every_operation_does_what_its_first_example_asks(
    rig: Rig, operations: list[Operation]
) -> None:
    """And what changes anything leaves one row in the audit log, but for a short list."""
    paths = document(rig)["paths"]
    wrong: list[object] = []
    for operation in operations:
        names = [parameter.name for parameter in operation.path_parameters]
        if names:
            fill(rig)
        places = {name: known_id(rig, operation.path, name) or "x" for name in names}
        described = paths[operation.path][operation.method]
        media = described.get("requestBody", {}).get("content", {}).get("application/json", {})
        examples = list(media.get("examples", {}).values())
        body = {"body": examples[0]["value"]} if examples else {}
        if operation.path.endswith(":rollback"):  # which version there is no example knows
            now = ask(rig, "get", operation.path.removesuffix(":rollback")).json()["version"]
            body = {"body": {"version": now}}
        if operation.label == "DELETE /v1/canaries/{id}":  # of one that is over
            ask(rig, "post", f"{operation.path}:abort")
        audited, version = Audited(lambda: newest_changes(rig)), version_of(rig, operation, places)
        case = operation.Case(
            path_parameters=places,
            headers={"If-Match": "*"},
            media_type="application/json" if body else None,
            **body,
        )
        status = check(rig, case, right_key(operation))
        if operation.path == RESEND:  # no message of this gateway lost its answer
            assert status == 409
        elif status >= 300:
            wrong.append((operation.label, status))
        elif operation.method != "get":
            told = rig.answer.get("version") if isinstance(rig.answer, dict) else None
            wrong += audited.complaints(
                operation.label,
                body.get("body"),
                rig.answer,
                is_changed=version is None or version != told,
            )
    assert not wrong, "\n".join(map(str, wrong))
    labels = {operation.label for operation in operations}
    assert LEFT_OUT.keys() <= labels  # nothing is left out that is not there


def test_every_operation_answers_as_the_document_says(
    rig: Rig, operations: list[Operation], capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():  # what was tried can be tried again
        print(f"\nFUZZ_SEED={SEED}, {len(operations)} operations")
    turns = list(itertools.product(operations, GenerationMode))
    random.Random(SEED).shuffle(turns)
    wrong: list[str] = []
    fill(rig)
    began = time.monotonic()
    for place, (operation, mode) in enumerate(turns, 1):
        until = began + BUDGET_S * place / len(turns)
        try:
            fuzz(rig, operation, mode, until)
        except Unsatisfiable:
            # A request that fits in no way: there is nothing to get wrong.
            assert mode is GenerationMode.NEGATIVE, operation.label
            assert operation.path in NOTHING_TO_SAY
        except Exception as error:  # noqa: BLE001 (all that is wrong is told at once)
            parts = [str(part) for part in getattr(error, "exceptions", ())]
            wrong.append("\n".join([f"--- {operation.label} {mode.value}", repr(error), *parts]))
    for label, statuses in sorted(rig.seen.items()):
        print(label, dict(sorted(statuses.items())))
    print(f"took {time.monotonic() - began:.1f} s")
    assert not wrong, f"FUZZ_SEED={SEED}\n" + "\n".join(wrong)
    assert rig.seen.keys() == {operation.label for operation in operations}


DEEP = b'{"a":' + b"[" * 30 + b"]" * 30 + b"}"
NUMBER = "13800138000"
HOSTILE = {
    "a name twice": (b'{"a":1,"a":2}', 400, "json.duplicate_key"),
    "NaN": (b'{"a":NaN}', 400, "json.syntax"),
    "infinity": (b'{"a":-Infinity}', 400, "json.syntax"),
    "half a character": (b'{"a":"\\ud800"}', 400, "json.surrogate"),
    "NUL": (b'{"a":"\\u0000"}', 400, "json.nul"),
    "too deep": (DEEP, 400, "json.too_deep"),
    "not UTF-8": (b'{"a":"\xff"}', 400, "json.not_utf8"),
    "cut off": (b'{"a":', 400, "json.syntax"),
    "no object": (b"[]", 422, "field.type"),
    "an unknown field": (b'{"x_%s":1}' % NUMBER.encode(), 422, "field.unknown"),
}


def document(rig: Rig) -> dict[str, Any]:
    told: dict[str, Any] = rig.gateway.request("GET", "/openapi.json").json()
    return told


def ask(rig: Rig, method: str, path: str, **more: Any) -> requests.Response:
    """One request with the right key, to something that is there."""
    operation = SimpleNamespace(path=path, method=method)
    filled = path
    for name in ("id", "key_id"):
        filled = filled.replace(f"{{{name}}}", known_id(rig, path, name) or "x")
    headers = {"authorization": f"Bearer {rig.keys[right_key(operation)]}", "if-match": "*"}
    headers |= more.pop("headers", {})
    url = rig.gateway.url + filled
    return rig.session.request(method, url, headers=headers, timeout=15, **more)


def with_body(rig: Rig) -> list[tuple[str, str]]:
    paths = document(rig)["paths"].items()
    return [(m, p) for p, ms in paths for m, operation in ms.items() if "requestBody" in operation]


@pytest.mark.parametrize("name", HOSTILE)
def test_every_route_refuses_hostile_json(rig: Rig, name: str) -> None:
    fill(rig)
    body, status, code = HOSTILE[name]
    routes = with_body(rig)
    assert len(routes) >= 10
    for method, path in routes:
        answer = ask(rig, method, path, data=body, headers={"content-type": "application/json"})
        told = answer.json()
        assert NUMBER not in answer.text, path
        if path.endswith(":preview") and status == 422 and answer.status_code == 200:
            assert code in [one["code"] for one in told["refusals"]], path
            continue
        assert answer.status_code == status, (path, answer.text)
        assert code in [told["code"], *(one["code"] for one in told["errors"])], (path, told)


def test_every_route_counts_its_body_on_the_stream(rig: Rig) -> None:
    """No Content-Length says how much comes; what is too much is 413, and not read to its end."""
    fill(rig)

    def pieces() -> Iterator[bytes]:
        yield b'{"a":"'
        for _ in range(9 << 4):
            yield b"x" * (1 << 16)
        yield b'"}'

    for method, path in with_body(rig):
        headers = {"content-type": "application/json"}
        try:
            answer = ask(rig, method, path, data=pieces(), headers=headers)
        except requests.ConnectionError:
            continue  # the gateway closed before we had sent it all: the answer may be lost so
        assert (answer.status_code, answer.json()["code"]) == (413, "body.too_large"), path


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=gbk"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
    ids=str,
)
def test_every_route_refuses_another_media_type(rig: Rig, headers: dict[str, str]) -> None:
    fill(rig)
    for method, path in with_body(rig):
        answer = ask(rig, method, path, data=b"{}", headers=headers)
        assert (answer.status_code, answer.json()["title"] != "") == (415, True), path


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("no_such=1", "query.unknown"),
        ("limit=1&limit=2", "query.repeated"),
        ("limit=%EF%BC%91", "query.value"),  # a full-width one
        ("limit=%00", "query.value"),
        ("limit=1001", "query.value"),
        ("cursor=x", "query.value"),
    ],
)
def test_every_list_refuses_a_hostile_query(rig: Rig, query: str, code: str) -> None:
    lists = [
        path
        for path, methods in document(rig)["paths"].items()
        if any(one.get("name") == "limit" for one in methods.get("get", {}).get("parameters", []))
    ]
    assert len(lists) >= 5
    for path in lists:
        # the pull calls its cursor `after`
        names = [one["name"] for one in document(rig)["paths"][path]["get"]["parameters"]]
        asked = query.replace("cursor", "cursor" if "cursor" in names else "after")
        answer = ask(rig, "get", f"{path}?{asked}")
        assert (answer.status_code, answer.json()["code"]) == (422, code), path


@pytest.mark.parametrize("digits", ["１３８００１３８０００", "١٣٨٠٠١٣٨٠٠٠", "1380013800²"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages:search", "/v1/suppressions"])
def test_digits_are_ascii(rig: Rig, path: str, digits: str) -> None:
    body: dict[str, str] = {"to": digits}
    if path == "/v1/messages":
        body["text"] = "您好"
    answer = ask(rig, "post", path, json=body)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/to")
    assert digits not in answer.text
