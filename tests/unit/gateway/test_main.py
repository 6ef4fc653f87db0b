import os

import pytest

from gateway.__main__ import main


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SMSGW_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("SMSGW_API_KEY_FILE", raising=False)


def test_help_shows_the_first_steps(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    for words in ("up --sandbox", "send +86", "status ID --timeline", "SMSGW_DATA_DIR"):
        assert words in told


def test_every_command_has_help(capsys):
    words = "up restart worker send status check doctor top export migrate apply"
    for command in words.split():
        with pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert left.value.code == 0
    assert "usage: smsgw apply" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("smsgw ")


def test_a_sandbox_without_a_public_port_makes_no_sense(capsys):
    assert main(["up", "--sandbox", "--role", "carrier"]) == 2
    assert "--role carrier" in capsys.readouterr().err


def test_a_restart_where_no_gateway_runs_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SMSGW_DATA_DIR", str(tmp_path / "none"))
    assert main(["restart"]) == 2
    assert f"no gateway runs on {tmp_path / 'none'}" in capsys.readouterr().err


def test_a_wrong_setting_is_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setenv("SMSGW_PORT", "http")
    assert main(["check"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("smsgw: SMSGW_PORT")
    assert len(told.splitlines()) == 1


def test_sending_without_a_key_says_what_to_set(capsys):
    assert main(["send", "+8613800138000", "x"]) == 2
    assert "SMSGW_API_KEY_FILE" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "65", "two"])
def test_the_number_of_workers_is_checked(count, capsys):
    with pytest.raises(SystemExit) as left:
        main(["up", "--workers", count])
    assert left.value.code == 2
    assert "a number from 1 to 64" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["migrate"], ["apply", "x.yaml"], ["export", "shop"]])
def test_a_directory_without_a_gateway_is_refused_and_left_alone(
    words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SMSGW_DATA_DIR", str(tmp_path / "none"))
    assert main(words) == 2
    told = capsys.readouterr().err
    assert str(tmp_path / "none") in told
    assert "SMSGW_DATA_DIR" in told
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["up"], 0o077),
        (["worker"], 0o077),
        (["apply", "x.yaml"], 0o077),
        (["migrate"], 0o077),
        (["export", "shop"], 0o077),
        (["check"], 0o022),
        (["doctor"], 0o022),
    ],
)
def test_what_a_node_writes_is_nobody_else_s_to_read(command, expected, monkeypatch, capsys):
    monkeypatch.setenv("SMSGW_PORT", "http")  # ends every command where its settings are read
    before = os.umask(0o022)
    try:
        assert main(command) == 2
        assert os.umask(0o022) == expected
    finally:
        os.umask(before)
    assert "SMSGW_PORT" in capsys.readouterr().err
