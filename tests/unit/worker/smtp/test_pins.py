import hashlib
import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servers.certificates import self_signed
from worker.smtp.pins import CertificateError, is_pinned, parse_pin, pins_of, public_key_of

HEX = "ab" * 32


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls")).chain


def test_the_key_is_the_one_that_openssl_finds(certificate: Path) -> None:
    """With the commands of docs/operations.md."""
    key = "openssl x509 -in {} -pubkey -noout | openssl pkey -pubin -outform DER | openssl dgst -sha256 -r"
    run = subprocess.run(key.format(certificate), shell=True, capture_output=True, text=True, check=True)
    whole = subprocess.run(
        f"openssl x509 -in {certificate} -noout -fingerprint -sha256",
        shell=True, capture_output=True, text=True, check=True,
    ).stdout.strip().partition("=")[2]  # fmt: skip
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    assert pins_of(der) == (parse_pin(f"sha256:{whole}"), f"sha256:{run.stdout.split()[0]}")
    for pin in pins_of(der):
        assert is_pinned(der, [parse_pin("sha256:" + HEX), pin])
    assert not is_pinned(der, ["sha256:" + HEX])


@pytest.mark.parametrize(
    "text", [f"sha256:{HEX}", f" SHA256:{HEX.upper()} ", "sha256:" + ":".join(["AB"] * 32)]
)
def test_a_pin_as_people_paste_it(text: str) -> None:
    assert parse_pin(text) == f"sha256:{HEX}"


@pytest.mark.parametrize(
    "text", ["", HEX, "sha1:" + HEX[:40], "sha256:" + HEX[:-1], f"sha256:{HEX}0", "sha256:x"]
)
def test_what_is_no_pin_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="should be sha256: and 64 hexadecimal digits"):
        parse_pin(text)


@given(data=st.binary(max_size=80), at=st.integers(0, 400), cut=st.integers(0, 500))
def test_no_bytes_are_taken_for_another_certificate(
    certificate: Path, data: bytes, at: int, cut: int
) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    pins = pins_of(der)
    for broken in (data, der[:cut], der[:at] + data + der[at + len(data) :]):
        try:
            key = public_key_of(broken)
        except CertificateError:
            continue
        assert key in broken
        if is_pinned(broken, pins):
            assert hashlib.sha256(key).hexdigest() == pins[1].removeprefix("sha256:")
