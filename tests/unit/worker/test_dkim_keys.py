"""`--dkim FILE`: which keys sign for whom, and what is wrong with such a file."""

import os
from pathlib import Path

import click
import pytest

from evenpost.dkim.keys import new_pem
from worker.dkim_keys import KEYS_PER_DOMAIN_MAX, DkimKeys, read_dkim


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, algorithm in (("r.pem", "rsa"), ("e.pem", "ed25519")):
        path = tmp_path / name
        path.touch(mode=0o600)
        path.write_bytes(new_pem(algorithm))  # type: ignore[arg-type]  # one of the two
    return tmp_path


def read(folder: Path, text: str) -> DkimKeys:
    (folder / "dkim.toml").write_text(text)
    return read_dkim(folder / "dkim.toml")


def key(selector: str = "s1", domain: str = "example.com", more: str = "", pem: str = "e.pem") -> str:
    return f'[[key]]\ndomain = "{domain}"\nselector = "{selector}"\nprivate_key = "{pem}"\n{more}\n'


def selectors(keys: DkimKeys, domain: str) -> list[str]:
    return [key.selector for key in keys.of(domain)]


def test_a_key_signs_for_its_domain_and_no_other(folder: Path) -> None:
    keys = read(folder, key())
    assert selectors(keys, "example.com") == ["s1"]
    for other in ("news.example.com", "example.org", "anexample.com", "com", ""):
        assert selectors(keys, other) == []
    assert not keys.require and not keys.is_slow


def test_rsa_and_ed25519_sign_together(folder: Path) -> None:
    keys = read(folder, key("r", pem="r.pem") + key("e"))
    assert selectors(keys, "example.com") == ["r", "e"]
    assert [k.label for k in keys.keys] == ["example.com/r rsa-2048", "example.com/e ed25519"]
    assert keys.is_slow


def test_domains_below_and_the_nearest_that_is_named(folder: Path) -> None:
    both = 'signs = ["example.com", "*.example.com", "*.Bücher.example."]'
    keys = read(folder, "require = true\n" + key("all", more=both) + key("shop", "shop.example.com"))
    assert keys.require
    assert selectors(keys, "example.com") == selectors(keys, "a.b.example.com") == ["all"]
    assert selectors(keys, "shop.example.com") == ["shop"]
    assert selectors(keys, "a.shop.example.com") == ["all"]
    assert selectors(keys, "a.xn--bcher-kva.example") == ["all"]
    assert selectors(keys, "xn--bcher-kva.example") == []


def test_a_signature_that_dmarc_does_not_count_is_warned_of(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(folder, key(more='signs = ["example.com", "news.example.com", "shop.example"]'))
    warning = capsys.readouterr().err
    assert warning.startswith(f"Warning: {folder}/dkim.toml, line 5: key[1].signs: DMARC doesn't count")
    assert "shop.example" in warning and warning.count("Warning") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ": key: there is none"),
        ("key = 1", ", line 0: key: it takes"),
        ("requires = true", ", line 1: requires: unknown key. Did you mean 'require'?"),
        ('require = "yes"\n' + key(), ", line 1: require: it takes true or false"),
        (key() + key("s1"), ", line 8: key[2].selector: s1._domainkey.example.com is another key's already"),
        (key() + "\n[[key]]\n# nothing\n", ", line 7: key[2].domain: missing"),
        (key("a b"), ", line 3: key[1].selector: 'a b' can't be a selector"),
        (key(domain="a..b"), ", line 2: key[1].domain: 'a..b' is no domain"),
        (key(domain="é\u2028.example"), ", line 2: key[1].domain: "),
        (key(more='signs = ["*.*.example.com"]'), ", line 5: key[1].signs: '*.example.com' is no domain"),
        (key(more="signs = []"), ", line 5: key[1].signs: it takes a list of texts"),
        (key(more='key = "x"'), ", line 5: key[1].key: unknown key. Known keys: "),
        (key(pem="missing.pem"), "missing.pem: No such file or directory"),
        (key(pem="."), " is no file"),
        (key(pem="\\u0000"), " can't be a file's name"),
        (key(pem="dkim.toml"), "no private key can be read: PEM"),
        (key(more="x = "), "Invalid value (at line 5"),
        (
            "".join(key(f"s{n}") for n in range(KEYS_PER_DOMAIN_MAX + 1)),
            "more than 4 keys sign for example.com",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(folder: Path, text: str, reason: str) -> None:
    (folder / "dkim.toml").touch(mode=0o600)
    with pytest.raises(click.BadParameter) as caught:
        read(folder, text)
    assert str(folder / "dkim.toml") in caught.value.message
    assert reason.replace(", line 0", "") in caught.value.message


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_key_that_others_can_read_is_refused(folder: Path, mode: int) -> None:
    (folder / "e.pem").chmod(mode)
    with pytest.raises(
        click.BadParameter, match=rf"line 4: key\[1\].private_key: .* chmod 600 {folder}/e.pem"
    ):
        read(folder, key())


def test_a_credential_of_systemd_may_show_rights_of_a_group(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "e.pem").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert selectors(read(folder, key()), "example.com") == ["s1"]


def test_a_pipe_does_not_hold_the_worker_up(folder: Path) -> None:
    os.mkfifo(folder / "pipe", 0o600)
    with pytest.raises(click.BadParameter, match="is no file"):
        read(folder, key(pem="pipe"))


def test_a_weak_key_is_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("worker.dkim_keys.RSA_BITS", 2049)
    read(folder, key(pem="r.pem"))
    assert "line 4: key[1].private_key: RSA of 2048 bits is weak" in capsys.readouterr().err
