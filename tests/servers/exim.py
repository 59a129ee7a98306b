"""Exim 4 from Debian's exim4-daemon-light, unpacked and run in a jail."""

from collections import Counter
from collections.abc import Iterator

from tests.servers.base import Server, header
from tests.servers.certificates import Certificate
from tests.servers.jail import Jail
from tests.servers.maildir import Maildir
from tests.servers.packages import EXIM, require, unpacked
from tests.servers.processes import Family

EXIM_USER = 5001

# {tls}, {authenticator} and {settings} are whole lines, {refused} is a list. deliver_drop_privilege spares
# Exim an exec of itself for each message.
CONFIGURATION = """\
primary_hostname = exim.test
keep_environment =
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim4/%slog.log
log_selector = -host_lookup_failed
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
domainlist local_domains = *
host_lookup =
rfc1413_hosts =
helo_allow_chars = _
deliver_drop_privilege = true
smtp_accept_max = 200
smtp_accept_queue = 0
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 0
smtp_connect_backlog = 200
smtp_receive_timeout = 5m
pipelining_advertise_hosts = *
chunking_advertise_hosts = *
message_size_limit = 50M
accept_8bitmime = true
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = acl_data
{tls}
{settings}

begin acl
acl_rcpt:
  deny local_parts = {refused}
  accept
acl_data:
  accept

begin routers
everyone:
  driver = accept
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = /var/mail/all
  maildir_format
  create_directory = false
  envelope_to_add
  return_path_add
  delivery_date_add
  user = Debian-exim
  mode = 0600

{authenticator}
"""

AUTHENTICATOR = """\
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{user}}}}}{{eq{{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and{{{{eq{{$auth1}}{{{user}}}}}{{eq{{$auth2}}{{{password}}}}}}}}}
  server_set_id = $auth1
"""


class EximServer(Server):
    """Exim that delivers everything to one Maildir.

    `certificate` turns STARTTLS on; `auth=(user, password)` offers AUTH PLAIN and LOGIN, on
    connections with TLS only where there is a certificate; `refused` is a list (Exim's) of local parts that
    it knows nobody by; `settings` are main options that win over ours.

    After QUIT it waits up to 200 ms for the client to close: one message a connection is slow.
    """

    name = EXIM

    def __init__(
        self,
        *,
        port: int | None = None,
        certificate: Certificate | None = None,
        auth: tuple[str, str] | None = None,
        refused: str = "",
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(port=port)
        self._certificate = certificate
        self._auth = auth
        self._refused = refused
        self._settings = settings or {}

    def _launch(self) -> Family:
        require(EXIM)
        binary = unpacked("usr/sbin/exim4")
        assert binary is not None
        jail = Jail(self.folder / "root", {"Debian-exim": EXIM_USER})
        jail.program(binary, "usr/sbin/exim4")
        jail.folder("var/spool/exim4", owner=EXIM_USER)
        jail.folder("var/log/exim4", owner=EXIM_USER)
        jail.folder("var/mail")
        self._maildir = Maildir(jail.root / "var/mail/all", owner=EXIM_USER)
        tls = "tls_advertise_hosts ="
        if self._certificate:
            jail.write("etc/exim4/chain.pem", self._certificate.chain.read_text())
            key = jail.write("etc/exim4/key.pem", self._certificate.key.read_text(), mode=0o644)
            tls = (
                "tls_advertise_hosts = *\ntls_certificate = /etc/exim4/chain.pem\n"
                f"tls_privatekey = /etc/exim4/{key.name}\n"
                "auth_advertise_hosts = ${if eq{$tls_in_cipher}{}{}{*}}"
            )
        authenticator = ""
        if self._auth:
            authenticator = AUTHENTICATOR.format(user=self._auth[0], password=self._auth[1])
        # At Exim's default place, so that it needs no -C and keeps its privileges.
        lines = [
            line for line in CONFIGURATION.splitlines() if line.partition(" = ")[0] not in self._settings
        ]
        jail.write(
            "etc/exim4/exim4.conf",
            "\n".join(lines).format(
                port=self.port,
                tls=tls,
                authenticator=authenticator,
                refused=self._refused,
                settings="\n".join(f"{name} = {value}" for name, value in self._settings.items()),
            ),
        )
        return Family(
            jail.command("/usr/sbin/exim4", "-bdf", "-q1m"),
            log=self.folder / "start.log",
            cwd=self.folder,
            jail=jail.root,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    def count(self) -> int:
        return self._maildir.count()

    def messages(self) -> Iterator[bytes]:
        return self._maildir.messages()

    def recipients(self) -> Counter[str]:
        return Counter(header(raw, "Envelope-to") for raw in self.messages())
