"""Real SMTP servers for the tests, each on a loopback port and with everything of its own.

    with PostfixServer() as server:
        send_to(server.host, server.port)
        server.wait_for(20_000)
        assert server.recipients() == expected

Every domain is accepted, everything is delivered into the test's own folder, nothing leaves the
machine and no name is looked up. `untraced(raw)` gives a delivered message back as it was sent.
"""

from tests.servers.base import Server, header, untraced
from tests.servers.certificates import Certificate, self_signed
from tests.servers.exim import EximServer
from tests.servers.opensmtpd import OpenSmtpdServer
from tests.servers.packages import missing, require
from tests.servers.postfix import PostfixServer
from tests.servers.recording import RecordingServer
from tests.servers.rules import Rule
from tests.servers.sink import SmtpSink

__all__ = [
    "Certificate",
    "EximServer",
    "OpenSmtpdServer",
    "PostfixServer",
    "RecordingServer",
    "Rule",
    "Server",
    "SmtpSink",
    "header",
    "missing",
    "require",
    "self_signed",
    "untraced",
]
