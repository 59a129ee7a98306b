import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from worker import cli
from worker.settings import Settings, default_name, default_outcome_log
from worker.smtp.config import ServerConfig


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Settings]:
    """What the command line would start, and did not."""
    settings: list[Settings] = []

    def start(given: Settings, failpoints: object) -> int:
        assert failpoints is None
        settings.append(given)
        return 0

    monkeypatch.setattr(cli, "start", start)
    monkeypatch.delenv("EVENPOST_SMTP_PASSWORD", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.chdir(tmp_path)
    return settings


def call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli.cli, arguments, env=environment, catch_exceptions=False)


def test_what_is_assumed(started: list[Settings]) -> None:
    assert call("--smtp", "smtp://relay.example").exit_code == 0
    (settings,) = started
    server = settings.server
    assert settings.broker == "tcp://127.0.0.1:5551"
    assert settings.name == default_name(server)
    assert settings.name.endswith("-relay.example-25")
    assert settings.outcome_log == default_outcome_log(settings.name)
    assert settings.outcome_log.parent == Path()
    assert (settings.weight, settings.pools, settings.drain_timeout_s) == (100, (), 30.0)
    assert (settings.rate, settings.agent, settings.agent_interval_s) == ("", None, 2.0)
    assert server == ServerConfig.from_url("smtp://relay.example")


def test_each_option_arrives(started: list[Settings], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    result = call(
        *("--broker", "tcp://b:1", "--smtp", "smtp://relay.example:2525", "--name", "w/1"),
        *("--max-connections", "3", "--weight", "7", "--pool", "a", "--pool", "b", "--tls", "required"),
        *("--ca-file", "ca.pem", "--no-verify", "--auth", "login", "--helo", "me.example"),
        *("--messages-per-connection", "5", "--connection-age", "6", "--connection-idle", "7"),
        *("--pipeline-depth", "12", "--discard-ehlo-keywords", "chunking, SIZE"),
        *("--connect-timeout", "8", "--command-timeout", "9", "--data-timeout", "10"),
        *("--rate", " 14/s, 50000/day ", "--agent", "[::1]:9999", "--agent-interval", "0.5"),
        *("--outcome-log-sync", "--drain-timeout", "11", "--log-level", "debug"),
    )
    assert result.exit_code == 0, result.output
    (settings,) = started
    server = settings.server
    assert (settings.broker, settings.name, settings.weight) == ("tcp://b:1", "w/1", 7)
    assert settings.pools == ("a", "b")
    assert (settings.rate, settings.agent) == ("14/s, 50000/day", ("::1", 9999))
    assert settings.agent_interval_s == 0.5
    assert settings.outcome_log == Path("evenpost-worker-w_1.outcomes")
    assert (settings.outcome_log_sync, settings.drain_timeout_s, settings.log_sent) == (True, 11, True)
    assert (server.host, server.port, server.tls, server.ca_file) == (
        "relay.example", 2525, "required", "ca.pem",
    )  # fmt: skip
    assert (server.verify, server.auth, server.helo_name) == (False, ("LOGIN",), "me.example")
    assert (server.max_connections, server.max_messages, server.max_age_s, server.idle_s) == (3, 5, 6, 7)
    assert (server.pipeline_depth, server.discard_ehlo_keywords) == (12, {"CHUNKING", "SIZE"})
    assert (server.timeouts.connect, server.timeouts.rcpt, server.timeouts.final_dot) == (8, 9, 10)


def test_option_beats_environment_beats_file(started: list[Settings], tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(
        '[worker]\nsmtp = "smtp://file.example"\nname = "file"\nweight = 3\npool = ["x", "y"]\n'
        'rate = "5/s"\nagent = "relay.example:9999"\nagent_interval = 1\n'
    )
    result = call("--config", "w.toml", "--weight", "5", EVENPOST_NAME="environment", EVENPOST_WEIGHT="4")
    assert result.exit_code == 0, result.output
    (settings,) = started
    assert settings.server.host == "file.example"
    assert (settings.name, settings.weight, settings.pools) == ("environment", 5, ("x", "y"))
    assert (settings.rate, settings.agent, settings.agent_interval_s) == ("5/s", ("relay.example", 9999), 1)


def test_pins_come_from_everywhere(started: list[Settings], tmp_path: Path) -> None:
    pins = ["sha256:" + digit * 64 for digit in "abc"]
    (tmp_path / "w.toml").write_text(f'smtp = "smtp://h"\ntls_pin = ["{pins[0]}", "{pins[1]}"]\n')
    assert call("--config", "w.toml").exit_code == 0
    assert call("--config", "w.toml", EVENPOST_TLS_PIN=f"{pins[1]} {pins[2]}").exit_code == 0
    assert call("--config", "w.toml", "--tls-pin", pins[2], "--no-verify").exit_code == 0
    assert [s.server.tls_pins for s in started] == [tuple(pins[:2]), tuple(pins[1:]), (pins[2],)]
    assert {s.server.tls for s in started} == {"required"}


def test_pool_has_one_name_everywhere(started: list[Settings], tmp_path: Path) -> None:
    file = tmp_path / "w.toml"
    file.write_text('smtp = "smtp://file.example"\npool = "bulk mail"\n')
    assert call("--config", "w.toml").exit_code == 0
    assert call("--config", "w.toml", EVENPOST_POOL="a b").exit_code == 0
    assert call("--config", "w.toml", "--pool", "c").exit_code == 0
    assert [settings.pools for settings in started] == [("bulk mail",), ("a", "b"), ("c",)]
    file.write_text('smtp = "smtp://file.example"\npools = ["bulk"]\n')
    result = call("--config", "w.toml")
    assert result.exit_code == 2
    assert "unknown key 'pools'. Did you mean 'pool'?" in " ".join(result.output.split())


@pytest.mark.parametrize(
    "option",
    [
        "agent-interval",
        "connection-age",
        "connection-idle",
        "connect-timeout",
        "command-timeout",
        "data-timeout",
        "drain-timeout",
    ],
)
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_seconds_are_a_number(started: list[Settings], option: str, number: str) -> None:
    result = call("--smtp", "smtp://relay.example", f"--{option}", number)
    assert result.exit_code == 2 and f"'{number}' is not a finite number" in result.output
    assert started == []


def test_where_a_password_may_come_from(started: list[Settings], tmp_path: Path) -> None:
    smtp = "smtp://me@relay.example"
    (tmp_path / "secret").write_text("from file\nnot this\n")
    (tmp_path / "smtp-password").write_text("from systemd")
    environment = {"EVENPOST_SMTP_PASSWORD": "from environment", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    call("--smtp", smtp, "--smtp-password-file", "secret", **environment)
    call("--smtp", smtp, **environment)
    call("--smtp", smtp, CREDENTIALS_DIRECTORY=str(tmp_path))
    call("--smtp", "smtp://relay.example", **environment)  # meant for another worker
    assert [s.server.password.reveal() for s in started] == [
        "from file",
        "from environment",
        "from systemd",
        "",
    ]
    assert "from" not in repr(started[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--smtp'"),
        (["--smtp", "smtp://me:secret@relay.example"], "can be read by everybody on this machine"),
        (["--smtp", "smtp://me@relay.example"], "give it with --smtp-password-file FILE"),
        (["--smtp", "http://relay.example"], "should look like smtp://HOST:PORT"),
        (["--smtp", "smtp://relay.example?tls=none", "--tls", "required"], "tls is there twice"),
        (["--smtp", "smtp://r.example", "--broker", "b:5551"], "write tcp://HOST:PORT"),
        (["--smtp", "smtp://r.example", "--pool", "x" * 201], "1 to 200 printable characters"),
        (["--smtp", "smtp://r.example", "--max-connections", "0"], "0 is not in the range"),
        (["--smtp", "smtp://r.example", "--pipeline-depth", "0"], "0 is not in the range"),
        (["--smtp", "smtp://r.example", "--discard-ehlo-keywords", "starttls"], "'starttls' is not one of"),
        (["--smtp", "smtp://r.example", "--rate", "fast"], "'--rate': "),
        (["--smtp", "smtp://r.example", "--rate", "1/s" + " " * 300 + ", 9/min"], "at most 200 characters"),
        (["--smtp", "smtp://r.example", "--agent", "9999"], "'9999' should be HOST:PORT"),
        (["--smtp", "smtp://r.example", "--agent", "::1:9999"], "as in 127.0.0.1:9999 or [::1]:9999"),
        (["--smtp", "smtp://r.example", "--agent", "h:0"], "should be HOST:PORT"),
        (["--smtp", "smtp://r.example", "--agent", "h:²"], "should be HOST:PORT"),
        (["--smtp", "smtp://r.example", "--agent", "h:" + "9" * 5_000], "should be HOST:PORT"),
        (["--smtp", "smtp://r.example", "--agent", "a b:5"], "'a b' is not a host name or address"),
        (["--smtp", "smtp://r.example", "--agent", "a\tb:5"], "is not a host name or address"),
        (["--smtp", "smtp://r.example", "--agent", "\udcff:5"], "is not a host name or address"),
        (["--smtp", "smtp://r.example", "--agent", "a..b:5"], "'a..b' is not a host name or address"),
        (["--smtp", "smtp://r.example", "--weight", "\u0663"], "is not a number that is written with 0 to 9"),
        (["--smtp", "smtp://r.example", "--max-connections", "1_0"], "'1_0' is not a number that is"),
        (["--smtp", "smtp://r.example", "--agent-interval", "0"], "0.0 is not in the range"),
        (["--smtp", "smtp://r.example", "--smtp-password-file", "none"], "can't read the secret in none"),
    ],
)
def test_bad_input_is_told_and_starts_nothing(
    started: list[Settings], arguments: list[str], message: str
) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "secret@" not in result.output
    assert started == []


def test_help_teaches_and_python_m_worker_is_the_same() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "worker", "--help"], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert "--smtp-password-file relay.secret" in result.stdout
    assert "Exit status" in result.stdout
    assert "EVENPOST_DRAIN_TIMEOUT" in result.stdout


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, worker.cli; print(*sorted({'zmq', 'uvloop', 'jinja2', 'msgpack'} & {*sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert result.stdout.strip() == ""
