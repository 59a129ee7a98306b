import dataclasses

import pytest

from evenpost.runtime.secret import Secret
from worker.smtp.config import ConfigError, ServerConfig


@pytest.mark.parametrize(
    ("url", "port", "tls", "username"),
    [
        ("smtp://relay.example", 25, "opportunistic", ""),
        ("smtp://user@relay.example", 587, "required", "user"),
        ("smtp://user@relay.example:2525", 2525, "required", "user"),
        ("smtps://user@relay.example", 465, "implicit", "user"),
        ("smtps://relay.example:4650/", 4650, "implicit", ""),
        ("smtp://news%40example.com@relay.example", 587, "required", "news@example.com"),
        ("smtp://127.0.0.1:2525", 2525, "none", ""),
        ("smtp://localhost", 25, "none", ""),
        ("smtp://[::1]:2525", 2525, "none", ""),
        ("smtp://localhost?tls=opportunistic", 25, "opportunistic", ""),
        ("smtp://relay.example?tls=implicit", 465, "implicit", ""),
        ("smtp://relay.example?tls=none", 25, "none", ""),
        ("smtp://me@127.0.0.1?cleartext_auth=yes", 587, "none", "me"),
    ],
)
def test_defaults(url: str, port: int, tls: str, username: str) -> None:
    config = ServerConfig.from_url(url)
    assert (config.port, config.tls, config.username) == (port, tls, username)


def test_parameters() -> None:
    config = ServerConfig.from_url(
        "smtp://u@h?tls=required&verify=no&ca_file=/etc/ca.pem&auth=xoauth2,plain&helo=me.example",
        password=Secret("secret"),
    )
    assert config.auth == ("XOAUTH2", "PLAIN")
    assert not config.verify
    assert (config.ca_file, config.helo_name) == ("/etc/ca.pem", "me.example")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("relay.example:25", "should look like"),
        ("http://relay.example", "should look like"),
        ("smtp://", "should look like"),
        ("smtp://h:99999", "not a URL"),
        ("smtp://h:x", "not a URL"),
        ("smtp://u:secret@h", "in a file or in the environment"),
        # Each is a way to get a URL with a password wrong: it isn't repeated.
        ("smtp://u:secret", "not a URL"),
        ("smtp://u:secret@h:99999", "not a URL"),
        ("smtp://u:sec/secret@h", "not a URL"),
        ("smtp://u:secret@[h", "not a URL"),
        ("smtp://u:1/secret@h", "nothing may follow"),
        ("u:secret@h:25", "should look like"),
        ("http://u:secret@h", "should look like"),
        ("smtp://u@secret@h/x", "nothing may follow"),
        ("smtp://h?tls_pin=sha256:ab&tls=required", "should be sha256: and 64 hexadecimal digits"),
        ("smtp://h?tls=none&tls_pin=sha256:" + "ab" * 32, "nobody has to show"),
        ("smtp://h/path", "nothing may follow"),
        ("smtp://h?tls=maybe", "tls=maybe"),
        ("smtps://h?tls=required", "for STARTTLS use smtp://"),
        ("smtp://h?verify=perhaps", "yes or no"),
        ("smtp://h?frob=1", "'frob' is not a parameter"),
        ("smtp://h?tls=none&tls=required", "twice"),
        ("smtp://u@h?tls=none", "readable"),
        ("smtp://u@h?cleartext_auth=yes", "loopback"),
        ("smtp://u@h?auth=cram-md5", "CRAM-MD5"),
        ("smtp://h?max_messages=10", "'max_messages' is not a parameter"),
        ("smtp://a b", "not a host name"),
        ("smtp://h?helo=a%0d%0ab", "helo"),
    ],
)
def test_what_is_wrong_is_said_and_the_password_is_not(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ServerConfig.from_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["max_connections", "max_messages", "max_age_s", "idle_s", "pipeline_depth"])
def test_a_connection_carries_and_lasts_something(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be above 0"):
        dataclasses.replace(ServerConfig("h"), **{name: 0})


def test_pins() -> None:
    pins = ["sha256:" + digit * 64 for digit in "aB"]
    for host in ("relay.example", "localhost"):
        config = ServerConfig.from_url(f"smtp://{host}?tls_pin={','.join(pins)}")
        assert (config.tls, config.tls_pins) == ("required", (pins[0], pins[1].lower()))


def test_the_password_is_not_in_the_repr() -> None:
    config = ServerConfig.from_url("smtp://u@h", password=Secret("hunter2"))
    assert "hunter2" not in repr(config)
    assert dataclasses.replace(config, port=26).password.reveal() == "hunter2"


def test_a_password_needs_a_user() -> None:
    with pytest.raises(ConfigError, match="no user"):
        ServerConfig("h", password=Secret("x"))
