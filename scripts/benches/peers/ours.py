"""Evenpost, as `scripts/bench throughput` runs it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import evenpost
from scripts.benches import throughput
from scripts.benches.peers.contestant import CONNECTIONS, Contestant
from scripts.benches.peers.sources import missing
from scripts.benches.processes import cluster, newsletter
from scripts.benches.usage import Ended


class Evenpost(Contestant):
    name = "evenpost"
    title = "Evenpost"
    why = """\
Nothing is set but the number of connections. Timed from the submission's first byte to the last outcome in
the journal."""

    @classmethod
    def missing(cls) -> str | None:
        return missing("smtp-sink")

    def version(self) -> str:
        return f"Evenpost {evenpost.__version__}"

    @classmethod
    def configuration(cls) -> Mapping[str, str]:
        return {
            "broker": "python -m broker --clients tcp://.. --workers tcp://.. --journal {folder}/journal.db",
            "worker": f"python -m worker --broker tcp://.. --smtp smtp://127.0.0.1:{{sink}} --tls none "
            f"--max-connections {CONNECTIONS}",
            "fed by": "client.Client.submit, in the bench's own process",
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        with cluster([self.place.sinks[0]], CONNECTIONS) as self._cluster:
            yield

    def send(self, messages: int) -> dict[str, Ended]:
        throughput.send(self._cluster, newsletter(messages))
        return {}

    def pids(self) -> dict[str, int]:
        worker = self._cluster.workers[0]
        return {"broker": self._cluster.broker.pid, "worker": worker.pid, "client": os.getpid()}
