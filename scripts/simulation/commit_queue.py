"""broker.journal.group_commit without its thread: a commit takes its time, and the world goes on."""

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from broker.core.commands import Change
from broker.journal.store import Journal
from scripts.simulation.clock import Host


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[], Any]
    done: Callable[[Any], None]
    writes: bool
    wait_s: float


class Queue:
    """Reads and writes in the order in which they were asked for; many writes in one flush, and each of them
    answered after it."""

    def __init__(
        self,
        journal: Journal,
        host: Host,
        rng: random.Random,
        flush_s: tuple[float, float],
        idle: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._host = host
        self._rng = rng
        self._flush_s = flush_s
        self._on_idle = idle
        self._jobs: deque[_Job] = deque()
        self._uncommitted: list[tuple[Callable[[Any], None], Any]] = []
        self._committing = False
        self._flush_at = math.inf
        self._step_due = False

    @property
    def idle(self) -> bool:
        return not self._jobs and not self._committing and self._flush_at == math.inf

    def write(self, changes: Sequence[Change], done: Callable[[], None], *, wait_s: float = 0.0) -> None:
        self._add(_Job(lambda: self._journal.apply(changes), lambda _: done(), True, wait_s))

    def write_call(self, run: Callable[[], Any], done: Callable[[Any], None], _: int) -> None:
        self._add(_Job(run, done, True, 0.0))

    def read(self, run: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self._add(_Job(run, done, False, 0.0))

    def _add(self, job: _Job) -> None:
        self._jobs.append(job)
        self._step_soon()

    def _step_soon(self) -> None:
        if not self._step_due:
            self._step_due = True
            self._host.after(0.0, self._step)

    def _step(self) -> None:
        self._step_due = False
        if self._committing:
            return
        mono = self._host.mono()
        while self._jobs:
            job = self._jobs.popleft()
            result = job.run()
            if not job.writes:
                job.done(result)
                continue
            self._uncommitted.append((job.done, result))
            self._flush_at = min(self._flush_at, mono + job.wait_s)
        if self._flush_at <= mono:
            self._flush_at = math.inf
            self._committing = True
            self._host.after(self._rng.uniform(*self._flush_s), self._committed)
        elif self._flush_at < math.inf:
            self._host.at_mono(self._flush_at, self._step_soon)

    def _committed(self) -> None:
        self._journal.commit()
        self._committing = False
        finished, self._uncommitted = self._uncommitted, []
        for done, result in finished:
            done(result)
        self._step()
        if self.idle:
            self._on_idle()

    def finish(self) -> None:
        """Everything is written and answered, at once."""
        while self._jobs or self._uncommitted:
            while self._jobs:
                job = self._jobs.popleft()
                self._uncommitted.append((job.done, job.run())) if job.writes else job.done(job.run())
            self._journal.commit()
            self._committing = False
            finished, self._uncommitted = self._uncommitted, []
            for done, result in finished:
                done(result)
