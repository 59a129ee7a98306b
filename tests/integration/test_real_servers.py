"""TLS, logins and refusals against the servers that people run."""

import asyncio
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop

from tests.integration.cluster import Cluster, newsletter
from tests.servers import EximServer, OpenSmtpdServer, PostfixServer, SmtpSink, self_signed
from tests.servers.base import header
from worker.smtp.config import ServerConfig
from worker.smtp.content import WireContent, checked
from worker.smtp.events import Envelope
from worker.smtp.outcome import Result
from worker.smtp.pool import Pool

pytestmark = pytest.mark.servers


def send(cluster: Cluster, messages: int = 40) -> dict[str, int]:
    with cluster.client() as client:
        cluster.wait_for_workers(client, 1)
        receipt = client.submit(newsletter(messages, expire_at="+20s"), wait=True)
        return client.status(receipt.campaign).counts


@pytest.mark.parametrize("server_type", [SmtpSink, PostfixServer, EximServer, OpenSmtpdServer])
def test_mail_arrives(server_type: type, tmp_path: Path) -> None:
    with server_type() as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url)
        assert send(cluster) == {"sent": 40}
        server.wait_for(40)
        assert len(server.recipients()) == 40


@pytest.mark.parametrize(
    ("server_type", "settings"),
    [(PostfixServer, {"smtpd_tls_received_header": "yes"}), (EximServer, {})],
    ids=["postfix", "exim"],
)
def test_starttls_with_a_verified_certificate(
    server_type: type, settings: dict[str, str], tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path)
    with server_type(certificate=certificate, settings=settings) as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url, "--ca-file", str(certificate.chain), tls="required")
        assert send(cluster) == {"sent": 40}
        server.wait_for(40)
        assert b"TLS" in next(iter(server.messages())).split(b"\n\n")[0]  # its Received header says so


def test_a_certificate_that_nobody_vouches_for_sends_nothing(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    with PostfixServer(certificate=certificate) as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url, tls="required")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            receipt = client.submit(newsletter(3, expire_at="+3s"), wait=True)
            assert client.status(receipt.campaign).counts == {"expired": 3}
            (worker,) = client.servers()
        assert "certificate" in worker.reason
        assert server.count() == 0


def test_a_login_over_tls(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    secret = tmp_path / "secret"
    with ExitStack() as stack:
        server = stack.enter_context(EximServer(certificate=certificate, auth=("mailer", "pass word")))
        cluster = stack.enter_context(Cluster(tmp_path))
        cluster.start_broker()
        url = f"smtp://mailer@{server.host}:{server.port}"
        options = ["--smtp-password-file", str(secret), "--ca-file", str(certificate.chain)]
        secret.write_text("wrong\n")
        cluster.start_worker("w", url, *options, tls="required")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            receipt = client.submit(newsletter(3, expire_at="+3s"), wait=True)
            assert client.status(receipt.campaign).counts == {"expired": 3}
            assert (
                "535" in client.servers()[0].reason or "authentication" in client.servers()[0].reason.lower()
            )
        cluster.terminate("w")
        secret.write_text("pass word\n")
        cluster.restart("w")
        assert send(cluster) == {"sent": 40}
        for name in ("w", "broker"):
            assert "pass word" not in cluster.log(name)


# -- CHUNKING: whole messages, many in the pipeline --------------------------------------------------

NOBODY = "nobody"
POSTFIX_REFUSES = {
    "smtpd_recipient_restrictions": "check_recipient_access regexp:{{/^nobody/ 550 5.1.1 nobody}}, "
    "permit_mynetworks, reject"
}


class Mixed:
    """A batch; where `refused` says so its recipient is nobody. Each content names its recipient, and looks
    as much like SMTP as a content can."""

    def __init__(self, first: int, refused: list[bool]) -> None:
        self.left = [
            Envelope("from@example.com", f"{NOBODY if no else 'user'}{key}@example.org", 300, key)
            for key, no in enumerate(refused, first)
        ]
        self.results: dict[str, Result] = {}

    def next(self) -> Envelope | None:
        return self.left.pop(0) if self.left else None

    def content(self, envelope: Envelope) -> WireContent:
        text = f"Subject: s\r\nX-Of: {envelope.rcpt_to}\r\n\r\nMAIL FROM:<evil@example.net>\r\nRSET\r\n"
        return checked((text + "RCPT TO:<evil@example.net>\r\nBDAT 2 LAST\r\nx\r\nQUIT\r\n").encode())

    def before_write(self) -> None: ...

    def may_end(self) -> bool:
        return True

    def result(self, envelope: Envelope, result: Result) -> None:
        assert envelope.rcpt_to not in self.results, "two results for one message"
        self.results[envelope.rcpt_to] = result


PATTERNS = {
    "none": [False] * 60,
    "each-third": [key % 3 == 1 for key in range(60)],
    "runs": [key // 4 % 2 == 0 for key in range(60)],
    "nearly-all": [key % 8 != 7 for key in range(60)],
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    ("server_type", "options"),
    [
        # So many refusals in a row would otherwise be answered late, one second each, and then with 421.
        (PostfixServer, {"settings": POSTFIX_REFUSES | {"smtpd_soft_error_limit": "1000"}}),
        (EximServer, {"refused": "^nobody"}),
    ],
    ids=["postfix", "exim"],
)
def test_good_and_refused_recipients_in_a_deep_pipeline(
    server_type: type, options: dict[str, object], pattern: str
) -> None:
    """Nobody gets another one's message, none is lost, none comes twice, and each refusal is told."""
    batches = [Mixed(1000 * number, PATTERNS[pattern]) for number in range(3)]

    async def run(port: int) -> int:
        pool = Pool(ServerConfig("127.0.0.1", port, tls="none", pipeline_depth=8))
        await asyncio.gather(*(pool.run(batch) for batch in batches))
        chunked = sum(connection._client.chunks for connection in pool._connections)
        await pool.close()
        return chunked

    with server_type(**options) as server:
        assert uvloop.run(run(server.port)) > 0, "it offers CHUNKING"
        told = {address: result for batch in batches for address, result in batch.results.items()}
        good = {address for address in told if not address.startswith(NOBODY)}
        assert len(told) == 180
        assert {address for address, result in told.items() if result.kind == "sent"} == good
        refusals = [result for address, result in told.items() if address not in good]
        assert {(result.kind, result.code) for result in refusals} <= {("bounced", 550)}
        server.wait_for(len(good))
        assert server.recipients() == Counter(good)
        assert {header(raw, "X-Of") for raw in server.messages()} == good


@pytest.mark.parametrize("server_type", [PostfixServer, EximServer])
def test_a_server_that_has_enough_of_a_connection_in_a_deep_pipeline(server_type: type) -> None:
    """421 in the middle of it: what stands behind goes over another connection, once."""
    settings = {
        PostfixServer: {"smtpd_client_message_rate_limit": "0", "smtpd_hard_error_limit": "4"}
        | POSTFIX_REFUSES,
        EximServer: {"smtp_accept_max_per_connection": "5"},
    }
    refused = [server_type is PostfixServer and key % 10 in (3, 4, 5) for key in range(60)]
    batch = Mixed(0, refused)

    async def run(port: int) -> None:
        pool = Pool(ServerConfig("127.0.0.1", port, tls="none", pipeline_depth=8))
        await pool.run(batch)
        await pool.close()

    with server_type(settings=settings[server_type]) as server:
        uvloop.run(run(server.port))
        good = {address for address in batch.results if not address.startswith(NOBODY)}
        assert {address for address, result in batch.results.items() if result.kind == "sent"} == good
        server.wait_for(len(good))
        assert server.recipients() == Counter(good)
        assert "too many" in server.log()
