"""A whole private Postfix: its own configuration, queue and data folder."""

import os
import pwd
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.servers.base import Server, header
from tests.servers.certificates import Certificate
from tests.servers.maildir import Maildir
from tests.servers.packages import POSTFIX, require
from tests.servers.processes import Family

DAEMONS = Path("/usr/lib/postfix/sbin")
QUEUE_FOLDERS = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming"),
    *("maildrop", "pid", "private", "public", "saved", "trace"),
)
MAILBOX_OWNER = 5000  # virtual(8) refuses an owner below virtual_minimum_uid, 100

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
maillog_file = {folder}/postfix.log
maillog_file_prefixes = {folder}

myhostname = postfix.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_peername_lookup = no
smtpd_recipient_restrictions = permit_mynetworks, reject

# Every address of every domain goes into one Maildir; nothing ever leaves.
virtual_mailbox_domains = static:all
virtual_mailbox_maps = static:mail/
virtual_mailbox_base = {folder}
virtual_uid_maps = static:{owner}
virtual_gid_maps = static:{owner}
virtual_mailbox_limit = 0
virtual_alias_maps =
virtual_alias_domains =
local_recipient_maps =
alias_maps =
default_transport = error:this server sends nothing
relay_transport = error:this server sends nothing
disable_dns_lookups = yes
smtp_dns_support_level = disabled
notify_classes =

message_size_limit = 52428800
default_process_limit = 100
smtpd_client_event_limit_exceptions = static:all
in_flow_delay = 0
initial_destination_concurrency = 20
virtual_destination_concurrency_limit = 20
qmgr_message_active_limit = 50000
qmgr_message_recipient_limit = 50000
"""

TLS_CF = """\
smtpd_tls_security_level = may
smtpd_tls_chain_files = {folder}/tls.pem
smtpd_tls_session_cache_database =
"""

MASTER_CF = """\
{port}    inet  n  -  n  -  -  smtpd
cleanup   unix  n  -  n  -  0  cleanup
qmgr      unix  n  -  n  300 1  qmgr
rewrite   unix  -  -  n  -  -  trivial-rewrite
bounce    unix  -  -  n  -  0  bounce
defer     unix  -  -  n  -  0  bounce
trace     unix  -  -  n  -  0  bounce
proxymap  unix  -  -  n  -  -  proxymap
tlsmgr    unix  -  -  n  1000? 1  tlsmgr
error     unix  -  -  n  -  -  error
retry     unix  -  -  n  -  -  error
virtual   unix  -  n  n  -  -  virtual
anvil     unix  -  -  n  -  1  anvil
postlog   unix-dgram n -  n  -  1  postlogd
"""


class PostfixServer(Server):
    """Postfix with all its daemons. Delivers everything to one Maildir through virtual(8).

    `certificate` turns STARTTLS on; `settings` are further main.cf lines that win over ours, for
    instance {"smtpd_client_connection_count_limit": "2"}.
    """

    name = POSTFIX

    def __init__(
        self,
        *,
        port: int | None = None,
        certificate: Certificate | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(port=port)
        self._certificate = certificate
        self._settings = settings or {}

    def _launch(self) -> Family:
        require(POSTFIX)
        self._maildir = Maildir(self.folder / "mail", owner=MAILBOX_OWNER)
        owner = pwd.getpwnam("postfix").pw_uid
        (self.folder / "queue").mkdir(mode=0o755)
        (self.folder / "data").mkdir(mode=0o755)
        os.chown(self.folder / "data", owner, 0)
        # What `postfix check` would make, at no cost.
        for name in QUEUE_FOLDERS:
            (self.folder / "queue" / name).mkdir(mode=0o700)
            os.chown(self.folder / "queue" / name, 0 if name == "pid" else owner, 0)
        (self.folder / "queue" / "pid").chmod(0o755)
        configuration = self.folder / "etc"
        configuration.mkdir()
        configuration.chmod(0o755)
        values = {"folder": self.folder, "daemons": DAEMONS, "owner": MAILBOX_OWNER}
        main = MAIN_CF.format_map(values)
        if self._certificate:
            main += TLS_CF.format_map(values)
            pem = self._certificate.key.read_bytes() + self._certificate.chain.read_bytes()
            (self.folder / "tls.pem").write_bytes(pem)
            (self.folder / "tls.pem").chmod(0o600)
        main += "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        (configuration / "main.cf").write_text(main)
        # Postfix waits until the file is two seconds old, lest somebody still writes it.
        os.utime(configuration / "main.cf", (0, 0))
        (configuration / "master.cf").write_text(MASTER_CF.format(port=self.port))
        # `master -d` stays our child, which `postfix start` would not.
        return Family(
            [DAEMONS / "master", "-d", "-c", configuration],
            log=self.folder / "master.log",
            cwd=self.folder,
        )

    def count(self) -> int:
        return self._maildir.count()

    def messages(self) -> Iterator[bytes]:
        return self._maildir.messages()

    def recipients(self) -> Counter[str]:
        return Counter(header(raw, "X-Original-To") for raw in self.messages())
