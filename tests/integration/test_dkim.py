"""Signed mail on its way through a real server: it arrives as it was, and others verify it."""

from collections import Counter
from pathlib import Path

import pytest

from evenpost.dkim import SigningKey
from evenpost.dkim.keys import new_pem
from tests.integration.cluster import Cluster, newsletter, wait_until
from tests.servers import EximServer, OpenSmtpdServer, PostfixServer
from tests.servers.verifiers import dkimpy, opendkim

pytestmark = pytest.mark.servers

MESSAGES = 60


def keys_in(folder: Path) -> dict[str, str]:
    """A file for --dkim with two keys, and their records."""
    records, text = {}, ""
    for selector, algorithm in (("r", "rsa"), ("e", "ed25519")):
        path = folder / f"{selector}.pem"
        path.touch(mode=0o600)
        path.write_bytes(new_pem(algorithm))  # type: ignore[arg-type]  # one of the two
        key = SigningKey("example.com", selector, path.read_bytes())
        records[key.record_name] = key.record
        text += f'[[key]]\ndomain = "example.com"\nselector = "{selector}"\nprivate_key = "{path.name}"\n'
    (folder / "dkim.toml").write_text(text)
    return records


@pytest.mark.parametrize("server_type", [PostfixServer, EximServer, OpenSmtpdServer])
def test_it_arrives_unaltered_and_verifies(server_type: type, tmp_path: Path) -> None:
    records = keys_in(tmp_path)
    with server_type() as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url, "--dkim", str(tmp_path / "dkim.toml"))
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            odd = "<p>  {{ name }} \t .</p>\n\n  .\n" * 30 + "\n\n\n"
            campaign = newsletter(MESSAGES, expire_at="+20s", html=odd, subject="{{ name }}, " * 20)
            receipt = client.submit(campaign, wait=True)
            assert client.status(receipt.campaign).counts == {"sent": MESSAGES}
        server.wait_for(MESSAGES)
        arrived = list(server.messages())
    assert len(arrived) == MESSAGES
    verdicts = Counter(tuple(sorted(dkimpy(raw, records).items())) for raw in arrived)
    assert verdicts == {(("e", "pass"), ("r", "pass")): MESSAGES}
    for raw in arrived[:5]:
        assert opendkim(raw, records, tmp_path) == {"e": "pass", "r": "pass"}
    spoilt = arrived[0].replace(b"Hello", b"Hallo")
    assert spoilt != arrived[0]
    assert "pass" not in opendkim(spoilt, records, tmp_path).values()


def test_a_worker_that_drains_with_messages_signed_ahead_sends_each_once(tmp_path: Path) -> None:
    records = keys_in(tmp_path)
    with PostfixServer() as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url, "--dkim", str(tmp_path / "dkim.toml"))
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            receipt = client.submit(newsletter(2_000, expire_at="+60s"))
            wait_until(lambda: client.status(receipt.campaign).counts.get("sent", 0) > 200, "it sends")
            assert cluster.terminate("w") == 0
            before = client.status(receipt.campaign)
            assert before.counts.get("sent", 0) < 2_000, "it was in the middle"
            cluster.restart("w")
            client.wait(receipt.campaign)
            after = client.status(receipt.campaign)
            assert (after.counts, after.unknown, after.duplicates) == ({"sent": 2_000}, 0, 0)
        server.wait_for(2_000)
        assert set(server.recipients().values()) == {1}
        some = list(server.messages())[::100]
    assert all(dkimpy(raw, records) == {"e": "pass", "r": "pass"} for raw in some)


def test_a_worker_without_its_keys_does_not_start(tmp_path: Path) -> None:
    keys_in(tmp_path)
    (tmp_path / "r.pem").chmod(0o644)
    with Cluster(tmp_path) as cluster:
        cluster.start_worker("w", "smtp://127.0.0.1:9", "--dkim", str(tmp_path / "dkim.toml"))
        assert cluster.processes["w"].wait(20) == 2
        assert f"chmod 600 {tmp_path}/r.pem" in cluster.log("w")
        assert "PRIVATE KEY" not in cluster.log("w")
