import io
import json

import pytest

from gateway import client
from gateway.settings import Settings
from gateway.terminal import Terminal
from sms.errors import ConfigError


class FakeDoor:
    url = "http://gateway.example"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def request(self, method, path, body=None):
        self.asked.append((method, path, body))
        return self.answers.pop(0)


@pytest.fixture
def shown(monkeypatch):
    def run(door, command, *, is_json=False, **words):
        monkeypatch.setattr(client, "find_door", lambda settings: door)
        stream = io.StringIO()
        code = command(
            Settings.load({}), terminal=Terminal(is_json=is_json, stream=stream), **words
        )
        return code, stream.getvalue()

    return run


MESSAGE = {
    "id": "msg_1",
    "to": "+8613800138000",
    "class": "otp",
    "status": "delivered",
    "channel": "carrier-a",
    "reason": None,
    "segments": 1,
}
STEPS = [
    {"at": "2026-11-21T08:00:00.000Z", "step": "accepted"},
    {
        "at": "2026-11-21T08:00:00.012Z",
        "step": "submitted",
        "channel": "carrier-a",
        "segment": 0,
        "carrier_id": "abc",
        "ms": 11.0,
    },
    {"at": "2026-11-21T08:00:01.000Z", "step": "delivered", "channel": "carrier-a", "code": "000"},
]


def test_an_accepted_text_shows_its_id_first(shown):
    door = FakeDoor((202, {"id": "msg_1", "to": "+86138", "segments": 2, "encoding": "ucs2"}))
    code, text = shown(door, client.send, body={"to": "138", "text": "x"})
    assert code == 0
    assert text.splitlines()[0] == "msg_1"
    assert "2 segments, ucs2" in text


def test_a_refusal_shows_field_and_remedy(shown):
    problem = {
        "title": "Unprocessable",
        "code": "recipient.invalid",
        "detail": "two fields are wrong",
        "action": "Write it as +8613800138000.",
        "errors": [{"pointer": "/to", "detail": "too short"}],
    }
    code, text = shown(FakeDoor((422, problem)), client.send, body={})
    assert code == 1
    assert "422 recipient.invalid" in text
    assert "/to: too short" in text
    assert "what to do: Write it as" in text


def test_status_tells_the_timeline_step_by_step(shown):
    door = FakeDoor((200, MESSAGE), (200, {"data": STEPS}))
    code, text = shown(door, client.status, message_id="msg_1", with_timeline=True)
    assert code == 0
    lines = text.splitlines()
    assert lines[0] == "msg_1  delivered"
    assert lines[-2].strip() == (
        "0.012  submitted, segment 1, on carrier-a, carrier's id abc, took 11 ms"
    )
    assert "1.000  delivered, on carrier-a, code 000" in lines[-1]


def test_a_webhook_request_says_how_it_ended(shown):
    told = {
        "at": "2026-11-21T08:00:01.000Z",
        "step": "webhook",
        "detail": "message.delivered to whe_2: try 1",
        "code": "webhook.connect_failed",
        "ms": 1,
    }
    door = FakeDoor((200, MESSAGE), (200, {"data": [told]}))
    _, text = shown(door, client.status, message_id="msg_1", with_timeline=True)
    assert "message.delivered to whe_2: try 1, webhook.connect_failed, took 1 ms" in text


def test_status_as_json_holds_the_timeline(shown):
    door = FakeDoor((200, MESSAGE), (200, {"data": STEPS}))
    _, text = shown(door, client.status, message_id="msg_1", with_timeline=True, is_json=True)
    assert json.loads(text)["timeline"] == STEPS


def test_an_id_cannot_leave_its_path(shown):
    door = FakeDoor((404, {"title": "Not Found", "code": "not_found"}))
    code, _ = shown(door, client.status, message_id="../x?y", with_timeline=False)
    assert code == 1
    assert door.asked[0][1] == "/v1/messages/..%2Fx%3Fy"


def test_the_door_is_found_in_the_sandbox_file(tmp_path):
    (tmp_path / "sandbox.json").write_text(
        json.dumps({"url": "http://127.0.0.1:1", "api_key": "k"})
    )
    settings = Settings.load({}, data_dir=tmp_path)
    assert client.find_door(settings) == client.Door("http://127.0.0.1:1", "k")
    (tmp_path / "key").write_text("other\n")
    settings = Settings.load({}, data_dir=tmp_path, url="http://h:2", api_key_file=tmp_path / "key")
    assert client.find_door(settings) == client.Door("http://h:2", "other")


def test_without_a_key_the_remedy_is_named(tmp_path):
    with pytest.raises(ConfigError, match="SMSGW_API_KEY_FILE"):
        client.find_door(Settings.load({}, data_dir=tmp_path))


def test_a_lone_error_is_told_once(shown):
    problem = {"code": "c", "detail": "empty", "errors": [{"pointer": "/text", "detail": "empty"}]}
    _, text = shown(FakeDoor((422, problem)), client.send, body={})
    assert text == "refused (422 c): empty\n"


def test_the_command_names_a_data_directory_that_is_not_the_usual_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "v" / "smsgw")])
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert client.command_line(Settings.load({})) == "v/smsgw"
    other = Settings.load({}, data_dir=tmp_path / "a b")
    assert client.command_line(other) == f"SMSGW_DATA_DIR='{tmp_path}/a b' v/smsgw"


def test_a_long_text_s_segments_are_counted_and_what_waits_is_told(shown):
    waiting = {"at": "2026-11-21T08:00:01.000Z", "step": "held", "detail": "held: no session"}
    steps = {"data": [*STEPS[:2], waiting]}
    door = FakeDoor((200, {**MESSAGE, "segments": 2, "waiting": "held: no session"}), (200, steps))
    _, text = shown(door, client.status, message_id="msg_1", with_timeline=True)
    assert "segment 1 of 2" in text
    assert text.count("held: no session") == 2


def test_a_message_that_is_not_there_says_where_it_was_looked_for(shown):
    problem = {"title": "Not found", "detail": "There is nothing here.", "code": "x"}
    door = FakeDoor((404, problem))
    code, text = shown(door, client.status, message_id="msg_1", with_timeline=False)
    assert code == 1
    assert FakeDoor.url in text
    assert "SMSGW_API_KEY_FILE" in text
