"""`evenpost up` with keys: real processes from one file, asked and told with a client's key."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from client import Client
from evenpost.runtime.curve import Role, new_key
from evenpost.runtime.curve_files import write_new
from tests.integration.cluster import ROOT, newsletter, wait_until
from tests.servers import RecordingServer
from tests.servers.ports import free_port


def test_a_cluster_with_keys_starts_sends_and_ends(tmp_path: Path) -> None:
    write_new(new_key(Role.BROKER, "main"), tmp_path)
    for role, name in ((Role.WORKER, "relay-1"), (Role.CLIENT, "shop")):
        folder = tmp_path / "keys" / f"{role}s"
        folder.mkdir(parents=True)
        write_new(new_key(role, name), tmp_path)[1].rename(folder / f"{name}.pub")
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with RecordingServer() as server:
        (tmp_path / "cluster.toml").write_text(
            f"[broker]\nclients = '{endpoint}'\nworkers = 'tcp://127.0.0.1:{free_port()}'\n"
            f"curve_key = 'main.key'\nkeys = 'keys'\n"
            f"[[server]]\nname = 'relay-1'\nsmtp = '{server.url}'\ncurve_key = 'relay-1.key'\n"
            f"processes = 2\n"
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EVENPOST_")}
        command = [sys.executable, "-m", "client", "up", "cluster.toml", "--curve-key", "shop.key"]
        log = tmp_path / "up.log"
        with log.open("wb") as file:
            up = subprocess.Popen(
                command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, stderr=file
            )
        try:
            wait_until(lambda: "Ready: the broker and 2 workers" in log.read_text(), "it is ready")
            with Client(endpoint, key=tmp_path / "shop.key", broker_key=tmp_path / "main.pub") as client:
                receipt = client.submit(newsletter(3), wait=True)
            assert receipt.status is not None and receipt.status.counts == {"sent": 3}
            assert server.count() == 3
            second = subprocess.run(
                command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True,
                text=True, timeout=30,
            )  # fmt: skip
            assert second.returncode == 2 and "does this cluster run?" in second.stderr
            up.send_signal(signal.SIGTERM)
            assert up.wait(30) == 0
        finally:
            up.kill()
            up.wait(10)
            print(log.read_text()[-6_000:])
