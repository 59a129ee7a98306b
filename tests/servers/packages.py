"""Where the mail servers are, and what to say when they are not there."""

import os
import shutil
from pathlib import Path

UNPACKED = Path(os.environ.get("EVENPOST_TEST_SERVERS", "/opt/evenpost-test-servers"))

SCRIPT = ".ci/install-mail-servers"
SBIN = "/usr/sbin:/usr/lib/postfix/sbin"

POSTFIX = "postfix"
SMTP_SINK = "smtp-sink"
EXIM = "exim"
OPENSMTPD = "opensmtpd"
OPENDKIM = "opendkim"
DKIMPY = "dkimpy"


def program(name: str) -> Path | None:
    """A program of an installed package, or None. /usr/sbin isn't on every user's PATH."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":" + SBIN)
    return Path(found) if found else None


def unpacked(path: str) -> Path | None:
    """A file of a package that .ci/install-mail-servers unpacked, or None."""
    full = UNPACKED / path
    return full if full.exists() else None


def missing(server: str) -> str | None:
    """Why `server` can't run here and what to do about it; None when it can."""
    verifier = {OPENDKIM: "usr/sbin/opendkim", DKIMPY: "usr/lib/python3/dist-packages/dkim"}.get(server)
    if verifier is not None:
        return None if unpacked(verifier) else f"{server} is not unpacked in {UNPACKED}: run {SCRIPT}"
    if program("setpriv") is None:
        return "setpriv is missing: apt-get install util-linux"
    if server in (POSTFIX, SMTP_SINK):
        if program(server) is None:
            return f"{server} is missing: apt-get install postfix, or run {SCRIPT}"
        if server == SMTP_SINK:
            return None
    binary = {EXIM: "usr/sbin/exim4", OPENSMTPD: "usr/sbin/smtpd"}.get(server)
    if binary is not None and unpacked(binary) is None:
        return f"{server} is not unpacked in {UNPACKED}: run {SCRIPT}"
    if os.geteuid() != 0:
        return f"{server} changes user and so starts as root only: run this test as root"
    return None


def require(server: str) -> None:
    """Skip the test, and say what to install, where `server` can't run."""
    if reason := missing(server):
        import pytest  # here, since scripts/demo uses these servers without the test extras

        pytest.skip(reason)
