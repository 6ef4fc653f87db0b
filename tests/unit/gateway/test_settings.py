from dataclasses import asdict

import pytest

from failover.health import HealthPolicy
from gateway.settings import (
    Reliability,
    Settings,
    child_environment,
    default_workers,
    node_name,
    usable_cores,
)
from sms.errors import ConfigError


def test_defaults_are_those_of_the_contract(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({})
    assert settings.data_dir == tmp_path / ".smsgw"
    assert settings.master_key_file == tmp_path / ".smsgw" / "master.key"
    assert (settings.host, settings.port, settings.admin_port) == ("127.0.0.1", 8080, 8081)
    assert settings.database_url is None
    assert settings.public_metrics is True
    assert settings.reliability.lease_s == 15
    assert settings.reliability.uncertain_wait_otp_s == 8


def test_every_variable_is_read():
    settings = Settings.load(
        {
            "SMSGW_DATA_DIR": "/srv/sms",
            "SMSGW_PORT": "9000",
            "SMSGW_DATABASE_URL": "postgresql://a:b@db/x",
            "SMSGW_REDIS_URL": "redis://cache",
            "SMSGW_PUBLIC_METRICS": "0",
            "SMSGW_WEBHOOK_ALLOW": "http://127.0.0.1:9900, https://x.example",
            "SMSGW_TRUSTED_PROXIES": "10.0.0.0/8",
            "SMSGW_LISTEN_FDS": "5,6",
            "SMSGW_SANDBOX": "1",
            "SMSGW_LOG_LEVEL": "INFO",
            "SMSGW_HOST": " ",
            "SMSGW_RELIABILITY__UNCERTAIN_WAIT_OTP_S": "2",
        }
    )
    assert str(settings.master_key_file) == "/srv/sms/master.key"
    assert settings.port == 9000
    assert settings.public_metrics is False
    assert settings.webhook_allow == ("http://127.0.0.1:9900", "https://x.example")
    assert settings.listen_fds == (5, 6)
    assert settings.is_sandbox is True
    assert settings.host == "127.0.0.1"  # an empty variable is an unset one
    assert settings.reliability.uncertain_wait_otp_s == 2


def test_overrides_win_over_the_environment():
    settings = Settings.load({"SMSGW_WORKERS": "2"}, workers=3, reliability=Reliability(lease_s=30))
    assert settings.workers == 3
    assert settings.reliability.lease_s == 30


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings.load({}).port = 1


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"SMSGW_PORT": "tcp://10.0.0.1:8080"}, "SMSGW_PORT"),
        ({"SMSGW_PORT": "70000"}, "SMSGW_PORT"),
        ({"SMSGW_DATABSE_URL": "x"}, "did you mean SMSGW_DATABASE_URL"),
        ({"SMSGW_RELIABILITY__LEASE": "1"}, "did you mean SMSGW_RELIABILITY__LEASE_S"),
        ({"SMSGW_RELIABILITY__LANE": "1"}, "is not a setting; did you mean .*__LANE_OTP"),
        ({"SMSGW_RELIABILITY__NOSUCH": "1"}, "is not a setting; unset it"),
        ({"SMSGW_PORT": "99999"}, "SMSGW_PORT: give 0 to 65535"),
        ({"SMSGW_WORKERS": "0"}, "SMSGW_WORKERS: give 1 to 64"),
        ({"SMSGW_ROLE": "x"}, "SMSGW_ROLE: give 'all', 'api' or 'carrier'"),
        ({"SMSGW_RELIABILITY__SHED_STORAGE_SHARE": "2"}, "give more than 0 and at most 1"),
        ({"SMSGW_RELIABILITY__LEASE_S": "soon"}, "SMSGW_RELIABILITY__LEASE_S"),
        ({"SMSGW_RELIABILITY__LEASE_S": "nan"}, "SMSGW_RELIABILITY__LEASE_S"),
        ({"SMSGW_RELIABILITY__INBOUND_JOIN_S": "-5"}, "SMSGW_RELIABILITY__INBOUND_JOIN_S"),
        ({"SMSGW_RELIABILITY__INBOUND_REPEAT_S": "nan"}, "SMSGW_RELIABILITY__INBOUND_REPEAT_S"),
        ({"SMSGW_RELIABILITY__LEASE_RENEW_S": "9"}, "SMSGW_RELIABILITY__LEASE_RENEW_S must"),
        ({"SMSGW_DATABASE_URL": "mysql://x"}, "SMSGW_DATABASE_URL"),
        (
            {"SMSGW_DATABASE_URL": "postgresql://h/d?ssl_min_protocol_version=TLSv1.1"},
            r"SMSGW_DATABASE_URL: .* TLSv1.2",
        ),
        ({"SMSGW_REDIS_URL": "redis://h/0?ssl_ca_certs=/ca.pem"}, "SMSGW_REDIS_URL: .* rediss://"),
        ({"SMSGW_REDIS_URL": "rediss://h/0?ssl_cert_reqs=none"}, "give ssl_ca_certs"),
        ({"SMSGW_REDIS_URL": "rediss://h/0?ssl_check_hostname=False"}, "give ssl_ca_certs"),
        ({"SMSGW_REDIS_URL": "rediss://h/0?ssl_min_version=770"}, "SMSGW_REDIS_URL: .* 771"),
        ({"SMSGW_WEBHOOK_ALLOW": "127.0.0.1:9900"}, "SMSGW_WEBHOOK_ALLOW"),
        ({"SMSGW_TRUSTED_PROXIES": "proxy"}, "SMSGW_TRUSTED_PROXIES"),
        ({"SMSGW_TLS_CERT_FILE": "/c"}, "SMSGW_TLS_KEY_FILE"),
        ({"SMSGW_ADMIN_TLS": "1"}, "SMSGW_ADMIN_TLS needs"),
        ({"SMSGW_SMG_TLS": "1"}, "SMSGW_SMG_TLS needs"),
        ({"SMSGW_TLS_CLIENT_CA_FILE": "/c"}, "SMSGW_TLS_CLIENT_CA_FILE needs SMSGW_TLS_CERT_FILE"),
        (
            {
                "SMSGW_SMG_TLS": "1",
                "SMSGW_SANDBOX": "1",
                "SMSGW_TLS_CERT_FILE": "/c",
                "SMSGW_TLS_KEY_FILE": "/k",
            },
            "SMSGW_SMG_TLS is not for",
        ),
        ({"SMSGW_RELIABILITY__TLS_RELOAD_S": "61"}, "SMSGW_RELIABILITY__TLS_RELOAD_S: give more"),
        ({"SMSGW_PORT": "8081"}, "SMSGW_ADMIN_PORT"),
        ({"SMSGW_SMG_PORT": "70000"}, "SMSGW_SMG_PORT: give 0 to 65535"),
        ({"SMSGW_SMG_PORT": "8080"}, "set SMSGW_SMG_PORT to another"),
        ({"SMSGW_NODE": "a b"}, "SMSGW_NODE"),
        ({"SMSGW_ROLE": "both"}, "SMSGW_ROLE"),
    ],
)
def test_a_wrong_value_names_its_variable(env, says):
    with pytest.raises(ConfigError, match=says):
        Settings.load(env)


def test_a_wrong_value_is_not_echoed():
    with pytest.raises(ConfigError) as caught:
        Settings.load({"SMSGW_DATABASE_URL": "mysql://root:hunter2@db"})
    assert "hunter2" not in str(caught.value)


def test_variables_of_others_are_left_alone():
    Settings.load({"SMSGW_SERVICE_HOST": "10.0.0.1", "HOME": "/"})


def test_the_node_name_is_made_once_and_kept(tmp_path):
    settings = Settings.load({"SMSGW_DATA_DIR": str(tmp_path)})
    name = node_name(settings)
    assert name.startswith("node-")
    assert node_name(settings) == name
    assert node_name(Settings.load({"SMSGW_NODE": "a"}, data_dir=tmp_path)) == "a"


def test_a_child_gets_exactly_the_same_settings(monkeypatch):
    monkeypatch.setenv("SMSGW_PORT", "1")
    monkeypatch.setenv("SMSGW_NODE", "not-this-one")
    settings = Settings.load(
        {},
        port=9000,
        listen_fds=(3, 4),
        smg_port=8801,
        smg_fds=(5,),
        webhook_allow=("http://127.0.0.1:9900",),
        public_metrics=False,
        is_sandbox=True,
        reliability=Reliability(lease_s=20),
    )
    env = child_environment(settings)
    assert Settings.load(env) == settings
    assert "SMSGW_NODE" not in env


def test_a_number_that_is_none_is_told_in_plain_words():
    with pytest.raises(ConfigError, match="SMSGW_PORT: must be a whole number; set it right"):
        Settings.load({"SMSGW_PORT": "http"})


@pytest.mark.parametrize(
    ("cores", "workers"),
    [(0.5, 1), (1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (16, 12), (64, 48), (256, 64)],
)
def test_three_quarters_of_the_cores_are_workers(cores, workers):
    assert default_workers(cores) == workers


def test_the_default_is_that_of_this_machine_and_a_given_number_wins():
    assert Settings.load({}).workers == default_workers()
    assert Settings.load({"SMSGW_WORKERS": "5"}).workers == 5


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.25),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "what\n"}, None),
        ({}, None),
    ],
)
def test_a_container_has_the_cores_of_its_quota(files, cores, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    machine = usable_cores(tmp_path / "none")
    assert machine >= 1
    assert usable_cores(tmp_path) == (machine if cores is None else cores)


def test_trusted_proxies_are_networks_and_never_everybody():
    told = Settings.load({"SMSGW_TRUSTED_PROXIES": "10.0.0.0/8, 2001:db8::7"})
    assert told.trusted_proxies == ("10.0.0.0/8", "2001:db8::7")
    for wrong in ("0.0.0.0/0", "::/0", "10.0.0.1/8", "proxy.example"):
        with pytest.raises(ConfigError, match="SMSGW_TRUSTED_PROXIES"):
            Settings.load({"SMSGW_TRUSTED_PROXIES": f"10.0.0.0/8,{wrong}"})


def test_no_carrier_can_connect_unless_told_so():
    settings = Settings.load({})
    assert (settings.smg_port, settings.smg_host, settings.smg_fds) == (None, None, ())
    assert Settings.load({"SMSGW_SMG_PORT": "0"}).smg_port == 0


def test_the_numbers_of_health_are_the_rooms_own_defaults():
    numbers = Reliability().model_dump()
    policy = {f"health_{name}": value for name, value in asdict(HealthPolicy()).items()}
    assert {name: numbers[name] for name in numbers if name.startswith("health_")} == policy


def test_the_ramp_is_written_as_a_list_and_ends_with_everything():
    name = "SMSGW_RELIABILITY__HEALTH_RAMP"
    assert Settings.load({name: "0.5, 1"}).reliability.health_ramp == (0.5, 1.0)
    for wrong in ("0.5", "0,1", "2,1", "x"):
        with pytest.raises(ConfigError, match=name):
            Settings.load({name: wrong})
