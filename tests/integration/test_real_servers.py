"""TLS, logins and refusals against the servers that people run."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, newsletter
from tests.servers import EximServer, OpenSmtpdServer, PostfixServer, SmtpSink, self_signed

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
