"""Celery with Redis: four processes, each with a kept connection of smtplib."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from client import Campaign
from scripts.benches.peers.contestant import BUILD, HERE, INSTALL, Contestant, Feeder, feeder, first_line
from scripts.benches.peers.sources import missing
from scripts.benches.processes import ROOT, newsletter, tool
from scripts.benches.usage import Ended
from tests.servers.processes import Family

PYTHON = BUILD / "venv/bin/python"
REDIS_CONF = (HERE / "redis.conf").read_text()
PROCESSES = 4
_TASKS = "scripts.benches.peers.celery_tasks"
WORKER = [
    *("-m", "celery", "-A", _TASKS, "worker", "--pool", "prefork", "--concurrency", str(PROCESSES)),
    *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"),
]


def missing_python() -> str | None:
    return None if PYTHON.exists() else f"Python packages: run {INSTALL} python"


def packages_version(*names: str) -> str:
    code = (
        "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    )
    return first_line([str(PYTHON), "-c", code, *names])


def python_environment(folder: Path, sink: int) -> dict[str, str]:
    """With the newsletter as a file in this folder."""
    letter: Campaign = newsletter(0)
    text = json.dumps({name: getattr(letter, name) for name in ("sender", "subject", "html", "text")})
    (folder / "letter.json").write_text(text)
    given = {"PYTHONPATH": str(ROOT), "LETTER": str(folder / "letter.json"), "SINK": str(sink)}
    return {**os.environ, **given}


class Celery(Contestant):
    name = "celery"
    title = "Celery, Redis, smtplib"
    share = 0.1
    chunk: ClassVar[int] = 1
    why = """\
Celery's guide "Optimizing": a large prefetch for short tasks, no results, no events; acks_late, so that a
task whose worker dies runs again. Redis flushes to disk each second. Each process keeps its connection and
its compiled templates; a task is a message. The program that enqueues runs already when the clock starts."""

    @classmethod
    def missing(cls) -> str | None:
        return missing("redis-server", how=f"run {INSTALL} servers") or missing_python()

    def version(self) -> str:
        redis = first_line([tool("redis-server"), "--version"]).split()[2].removeprefix("v=")
        return f"{packages_version('celery', 'redis')}, Redis {redis}"

    @classmethod
    def configuration(cls) -> Mapping[str, str]:
        return {
            "redis.conf": REDIS_CONF,
            "worker": " ".join(["python", *WORKER]),
            "its tasks": (HERE / "celery_tasks.py").read_text(),
            "how it composes": (HERE / "letter.py").read_text(),
            "fed by": (HERE / "celery_feed.py").read_text(),
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        folder = self.place.folder
        environment = python_environment(folder, self.place.sinks[0])
        environment["REDIS"] = f"redis+socket://{folder}/redis.sock"
        (folder / "redis.conf").write_text(REDIS_CONF.format(folder=folder))
        redis = [tool("redis-server"), str(folder / "redis.conf")]
        self._redis = Family(redis, log=folder / "redis.log", cwd=folder)
        try:
            worker = [str(PYTHON), *WORKER]
            self._worker = Family(worker, log=folder / "celery.log", cwd=folder, env=environment)
            feed = [str(PYTHON), "-m", "scripts.benches.peers.celery_feed", str(self.chunk)]
            try:
                with feeder(feed, folder / "feed.log", environment) as self._feeder:
                    yield
            finally:
                self._worker.stop()
        finally:
            self._redis.stop()

    _feeder: Feeder

    def send(self, messages: int) -> dict[str, Ended]:
        self._feeder.send(messages)
        return {}

    def pids(self) -> dict[str, int]:
        return {
            "celery": self._worker.process.pid,
            "redis": self._redis.process.pid,
            "feeder": self._feeder.pid,
        }


class CeleryChunks(Celery):
    name = "celery-chunks"
    title = "Celery, 50 a task"
    share = 0.1
    chunk = 50
    why = """\
The same with Celery's chunks: less cost a message, but a task that dies sends all its 50 again, and one
message that fails stops its chunk."""
