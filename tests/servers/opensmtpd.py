"""OpenSMTPD from Debian's opensmtpd, unpacked and run in a jail."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.servers.base import Server, header
from tests.servers.jail import Jail
from tests.servers.maildir import Maildir
from tests.servers.packages import OPENSMTPD, require, unpacked
from tests.servers.processes import Family

SMTPD_USER, QUEUE_USER, MAILBOX_OWNER = 5002, 5003, 5004
HELPERS = "usr/libexec/opensmtpd"

CONFIGURATION = """\
smtp max-message-size "50M"
smtp limit max-mails {session_messages}
table everyone {{ "@" = vmail }}
listen on 127.0.0.1 port {port} hostname opensmtpd.test
action "store" maildir "/var/mail/all" user vmail virtual <everyone>
match from any for any action "store"
"""


class OpenSmtpdServer(Server):
    """OpenSMTPD that delivers everything to one Maildir.

    `session_messages` is how many messages it takes on one connection before it answers
    452 (its own default is 100). Its listen backlog is a handful, so of many connections opened
    at once some wait for TCP's second attempt, one second later. It offers no PIPELINING.
    """

    name = OPENSMTPD

    def __init__(self, *, port: int | None = None, session_messages: int = 1_000_000) -> None:
        super().__init__(port=port)
        self._session_messages = session_messages

    def _launch(self) -> Family:
        require(OPENSMTPD)
        binary, helpers = unpacked("usr/sbin/smtpd"), unpacked(HELPERS)
        assert binary is not None and helpers is not None
        users = {"opensmtpd": SMTPD_USER, "opensmtpq": QUEUE_USER, "vmail": MAILBOX_OWNER}
        jail = Jail(self.folder / "root", users)
        jail.program(binary, "usr/sbin/smtpd")
        jail.program(Path("/bin/sh"), "bin/sh")  # OpenSMTPD starts its helpers through a shell
        for name in ("mail.maildir", "lockspool"):
            jail.program(helpers / name, f"{HELPERS}/{name}")
        jail.folder("var/lib/opensmtpd/empty")
        jail.folder("var/spool/smtpd", mode=0o711)
        jail.folder("var/mail")
        self._maildir = Maildir(jail.root / "var/mail/all", owner=MAILBOX_OWNER)
        jail.write("etc/mailname", "opensmtpd.test")
        jail.write(
            "etc/smtpd.conf",
            CONFIGURATION.format(port=self.port, session_messages=self._session_messages),
            mode=0o600,
        )
        return Family(
            jail.command("/usr/sbin/smtpd", "-d"),
            log=self.folder / "smtpd.log",
            cwd=self.folder,
            jail=jail.root,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    def count(self) -> int:
        return self._maildir.count()

    def messages(self) -> Iterator[bytes]:
        return self._maildir.messages()

    def recipients(self) -> Counter[str]:
        return Counter(header(raw, "Delivered-To") for raw in self.messages())
