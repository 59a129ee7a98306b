"""One seed: processes up, campaign and faults, processes down, books."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from client import Client, ClientError
from scripts.chaoslab.bound import Exposure, exposure_of
from scripts.chaoslab.ledger import Balance, Entry, Journal, Taken, balance
from scripts.chaoslab.schedule import BROKER, CLIENT, Fault, schedule, worker_names
from scripts.chaoslab.submissions import Submission
from tests.integration.cluster import ROOT, Cluster, wait_until

HEARTBEAT_S, LEASE_S = 0.25, 2.0
STALL_S = 60.0
"""Nothing is taken for this long: the run is given up, and what has no end by then counts as lost."""
TURN_S = 0.01
STOP_S = 40.0
_BROKER_OPTIONS = (
    "--heartbeat", str(HEARTBEAT_S), "--lease", str(LEASE_S), "--retry-initial", "0.2", "--retry-max", "1",
    "--slow-start", "1",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    messages: int
    kills: int
    workers: int
    connections: int
    pace_s: float
    """How long the sinks alone would take for all messages."""


@dataclass(slots=True)
class Outcome:
    """What a seed came to."""

    plan: Plan
    balance: Balance
    exposure: Exposure
    kills: int
    freezes: int
    upgrades: int
    seconds: float
    events: list[str] = field(default_factory=list)
    """The faults as they happened."""
    trouble: list[str] = field(default_factory=list)
    """What went wrong beside the books."""

    @property
    def bound(self) -> int:
        return self.exposure.messages

    @property
    def wrong(self) -> list[str]:
        return [*self.balance.wrong(self.bound), *self.trouble]

    def facts(self) -> dict[str, Any]:
        counts = {k: v for k, v in asdict(self.balance).items() if k != "examples"}
        return {
            "seed": self.plan.seed, **counts, "bound": self.bound,
            "bound_pipeline": len(self.exposure.pipeline),
            "bound_uncommitted": len(self.exposure.uncommitted),
            "kills": self.kills, "freezes": self.freezes, "upgrades": self.upgrades,
            "seconds": round(self.seconds, 1), "wrong": self.wrong, "examples": self.balance.examples,
        }  # fmt: skip


class Run:
    def __init__(self, plan: Plan, folder: Path, progress: Callable[[float, str], None]) -> None:
        self._plan, self._folder, self._progress = plan, folder, progress
        self._faults = schedule(plan.seed, plan.kills, plan.workers)
        self._names = worker_names(plan.workers)
        self._cluster = Cluster(folder, *_BROKER_OPTIONS)
        self._book = folder / "book"
        self._taken, self._read_upto = 0, 0
        self._frozen: dict[str, float] = {}
        """Workers that are stopped, and until when."""
        self._ending: dict[str, float] = {}
        """Processes that were told to end for an upgrade, and when that is overdue."""
        self._logged_before: dict[str, int] = {}
        """The size of each process's log at its latest start."""
        self._exposed: list[Path] = []
        self._counts: Counter[str] = Counter()
        self._events: list[str] = []
        self._trouble: list[str] = []
        self._submissions = self._make_submissions()

    def go(self) -> Outcome:
        began = time.monotonic()
        self._book.touch()
        with self._cluster, self._sinks() as sinks:
            assert sinks.stdout is not None
            ports = [int(port) for port in sinks.stdout.readline().split()]
            self._cluster.start_broker()
            for name, port in zip(self._names, ports, strict=True):
                connections = ("--max-connections", str(self._plan.connections))
                self._cluster.start_worker(name, f"smtp://127.0.0.1:{port}", *connections)
            try:
                self._campaign()
                self._settle()
                journal = self._journal()
            finally:
                self._end()
            assert sinks.stdin is not None
            sinks.stdin.close()
            sinks.wait(10)
        told = [each for submission in self._submissions for each in submission.told]
        submitted = {each.id: each.recipients for each in self._submissions}
        found = balance(told, journal, self._copies(), submitted)
        exposed = Exposure()
        for path in self._exposed:
            exposed.add(exposure_of(path))
        kinds = self._counts
        return Outcome(
            self._plan, found, exposed, kinds["kill"], kinds["freeze"], kinds["upgrade"],
            time.monotonic() - began, self._events, self._trouble,
        )  # fmt: skip

    # --- the campaign -------------------------------------------------------------------------------

    def _make_submissions(self) -> list[Submission]:
        clients = sum(CLIENT in fault.victims for fault in self._faults)
        count = 2 + 2 * clients
        size, rest = divmod(self._plan.messages, count)
        made, first = [], 0
        for number in range(count):
            recipients = size + (number < rest)
            made.append(Submission(self._cluster, number, first, recipients, self._plan.seed))
            first += recipients
        return made

    def _campaign(self) -> None:
        """Until all messages have an outcome, or nothing moves."""
        faults = list(self._faults)
        moved_at, asked_at = time.monotonic(), 0.0
        with self._client() as client:
            while True:
                now = time.monotonic()
                if self._look_at_book():
                    moved_at = now
                if now > moved_at + STALL_S:
                    self._trouble.append(f"nothing moved for {STALL_S:g} s at {self._done:.1%}")
                    return
                self._feed()
                for submission in self._submissions:
                    if submission.step():
                        self._count("kill", f"client of {submission.id}")
                while faults and self._done >= faults[0].at:
                    self._inject(faults.pop(0), now)
                self._mend(now)
                self._progress(self._done, f"{self._counts['kill']} kills")
                is_quiet = not faults and not self._frozen and not self._ending
                if is_quiet and now >= asked_at + 0.5 and all(s.is_told for s in self._submissions):
                    asked_at = now
                    busy = any(s.process is not None for s in self._submissions)
                    if not busy and self._is_finished(client):
                        return
                time.sleep(TURN_S)

    @property
    def _done(self) -> float:
        return self._taken / self._plan.messages

    def _look_at_book(self) -> bool:
        size = self._book.stat().st_size
        if size == self._read_upto:
            return False
        with self._book.open("rb") as file:
            file.seek(self._read_upto)
            self._taken += file.read(size - self._read_upto).count(b"\n")
        self._read_upto = size
        return True

    def _feed(self) -> None:
        """A client starts whenever less than two lists' worth of mail is under way."""
        under_way = sum(s.recipients for s in self._submissions if s.started) - self._taken
        for submission in self._submissions:
            if not submission.started and under_way < 2 * submission.recipients:
                submission.start()
                under_way += submission.recipients

    def _is_finished(self, client: Client) -> bool:
        try:
            return all(
                client.status(campaign).state == "finished"
                for campaign in {told.campaign for s in self._submissions for told in s.told}
            )
        except ClientError:
            return False

    # --- faults -------------------------------------------------------------------------------------

    def _inject(self, fault: Fault, now: float) -> None:
        if fault.victims == (CLIENT,):
            waiting = [s for s in self._submissions if s.kill_at is None]
            running = [s for s in waiting if s.process is not None]
            fresh = [s for s in waiting if not s.started]
            (running or fresh or waiting)[0].kill_in(fault.hold, now)
            return
        what = " and ".join(fault.victims)
        match fault.kind:
            case "kill":
                for name in fault.victims:
                    self._cluster.processes[name].kill()
                self._expose(fault.victims)
                for name in fault.victims:
                    self._frozen.pop(name, None)
                    self._ending.pop(name, None)
                    self._cluster.processes[name].wait(10)
                    self._restart(name)
                    self._count("kill", what)
            case "freeze":
                (name,) = fault.victims
                if name in self._ending:
                    self._ending[name] += fault.hold * LEASE_S
                self._cluster.processes[name].send_signal(signal.SIGSTOP)
                self._expose(fault.victims)
                self._frozen[name] = now + fault.hold * LEASE_S
                self._count("freeze", what)
            case "upgrade":
                (name,) = fault.victims
                self._cluster.processes[name].send_signal(signal.SIGTERM)
                self._ending[name] = now + STOP_S
                self._count("upgrade", what)

    def _expose(self, victims: tuple[str, ...]) -> None:
        """Keeps the outcome logs as the fault left them. A broker's death concerns all workers."""
        for name in self._names if BROKER in victims else victims:
            log = self._folder / f"{name}.outcomes"
            if log.exists():
                kept = self._folder / f"exposed-{len(self._exposed)}"
                kept.write_bytes(log.read_bytes())
                self._exposed.append(kept)

    def _mend(self, now: float) -> None:
        """What was frozen goes on, what has ended for an upgrade is started again."""
        for name, until in list(self._frozen.items()):
            if now >= until:
                del self._frozen[name]
                self._cluster.processes[name].send_signal(signal.SIGCONT)
        for name, overdue in list(self._ending.items()):
            status = self._cluster.processes[name].poll()
            if status is None and now < overdue:
                continue
            del self._ending[name]
            # Before it has opened its log or the journal it has nothing to lose, and no handler yet.
            died_at_once = status == -signal.SIGTERM and not self._has_started(name)
            if status != 0 and not died_at_once:
                self._trouble.append(f"{name} was told to end, and did with {status}")
                self._cluster.kill(name)
            self._restart(name)
        for name in (BROKER, *self._names):
            status = self._cluster.processes[name].poll()
            if status is not None and name not in self._ending:
                self._trouble.append(f"{name} ended by itself with {status}")
                self._restart(name)

    def _restart(self, name: str) -> None:
        self._logged_before[name] = len(self._cluster.log(name))
        self._cluster.restart(name)

    def _has_started(self, name: str) -> bool:
        """Whether it has said so since its latest start: its handlers are there by then."""
        logged = self._cluster.log(name)[self._logged_before.get(name, 0) :]
        return f'"{"broker" if name == BROKER else "worker"}.started"' in logged

    def _count(self, kind: str, what: str) -> None:
        self._counts[kind] += 1
        self._events.append(f"{self._done:.3f} {kind} {what}")

    # --- the end ------------------------------------------------------------------------------------

    def _client(self) -> Client:
        return Client(self._cluster.clients, timeout=20, connect_timeout=20)

    def _settle(self) -> None:
        """Workers end and tell all that they have not told, or no book could be closed."""
        for name in self._names:
            wait_until(partial(self._has_started, name), f"{name} starts")
        for name in self._names:
            self._cluster.processes[name].send_signal(signal.SIGTERM)
        for name in self._names:
            try:
                status: int | None = self._cluster.processes[name].wait(STOP_S)
            except subprocess.TimeoutExpired:
                status = None
            if status != 0:
                self._trouble.append(f"{name} was told to end, and did with {status}")

    def _journal(self) -> Journal:
        journal = Journal()
        with self._client() as client:
            for campaign in {told.campaign for s in self._submissions for told in s.told}:
                status = client.status(campaign)
                journal.unknown[campaign] = status.unknown
                for row in client.report(campaign):
                    unknown = sum(attempt.outcome == "unknown" for attempt in row.history)
                    journal.messages[campaign, row.index] = Entry(row.address, row.state, unknown)
        return journal

    def _end(self) -> None:
        """The broker, too; what doesn't end is killed by the cluster."""
        try:
            if status := self._cluster.terminate(BROKER, STOP_S):
                self._trouble.append(f"broker was told to end, and did with {status}")
        except subprocess.TimeoutExpired:
            self._trouble.append("the broker doesn't end")

    def _copies(self) -> Counter[Taken]:
        copies: Counter[Taken] = Counter()
        for line in self._book.read_text().splitlines():
            _, message_id, address = line.split("\t")
            copies[message_id, address] += 1
        return copies

    def _sinks(self) -> "subprocess.Popen[bytes]":
        plan = self._plan
        service_s = plan.pace_s * plan.workers * plan.connections / plan.messages
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.chaoslab.sink",
             str(self._book), str(plan.workers), repr(service_s)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
