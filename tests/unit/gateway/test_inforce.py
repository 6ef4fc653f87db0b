"""What `smsgw apply` says about where the new version stands."""

import pytest

from gateway import inforce
from gateway.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return Settings.load({"SMSGW_DATA_DIR": str(tmp_path)})


def answers(monkeypatch, *bodies):
    left = list(bodies)

    async def metrics(_):
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(inforce, "_metrics", metrics)
    monkeypatch.setattr(inforce, "_LOOK_S", 0.0)


def test_it_waits_for_the_oldest_worker(monkeypatch, settings):
    answers(monkeypatch, b"", b"smsgw_config_version 2.0\n", b"x 1\nsmsgw_config_version 3.0\n")
    told: list[str] = []
    assert inforce.wait(settings, 3, told.append) == "version 3 is in force"
    assert len(told) == 1
    assert "waiting" in told[0]


def test_it_does_not_wait_for_ever(monkeypatch, settings):
    answers(monkeypatch, b"smsgw_config_version 2.0\n")
    monkeypatch.setattr(inforce, "WAIT_S", 0.0)
    told = inforce.wait(settings, 3, print)
    assert "not taken it up" in told
    assert str(settings.log_dir) in told


def test_no_gateway_runs(monkeypatch, settings):
    outside = settings.model_copy(update={"database_url": "postgresql://db.example/x"})
    assert "in the database" in inforce.wait(outside, 3, print)
