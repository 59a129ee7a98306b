"""The broker's process: the only place where core, sockets and journal meet.

One thread and one loop: take what came in, let the core decide, carry out its commands, let the journal write
and flush in groups. Only the flush itself is on another thread.
"""

import gc
import random
import secrets
import signal
from collections.abc import Callable
from functools import partial
from typing import Any, assert_never

import zmq

from broker.access import EXIT_OPEN, Access, check_reach
from broker.asking import QUESTIONS_MAX, Asking
from broker.core.commands import (
    Command,
    Log,
    LookUp,
    Persist,
    Raise,
    ReadFresh,
    ReadHeld,
    ReadRetries,
    Reopen,
    Reply,
    ResolveMx,
    SendBatch,
    SendTemplate,
    ToWorker,
)
from broker.core.dispatcher import Dispatcher
from broker.core.events import (
    Event,
    FromClient,
    FromWorker,
    MxFound,
    SendFailed,
    Tick,
    WorkerRevoked,
)
from broker.journal.answers import answer
from broker.journal.group_commit import GroupCommit
from broker.journal.sqlite import SqliteJournal
from broker.journal.store import JournalError
from broker.mx_wanted import mx_lookups
from broker.opening import Opening
from broker.queries import Queries
from broker.rejections import Rejections
from broker.reopening import Reopening
from broker.settings import Settings
from broker.wakeup import Wakeup
from broker.watchers import Watchers
from evenpost import __version__
from evenpost.runtime import logs, sockets
from evenpost.runtime.clock import now
from evenpost.runtime.curve import PublicKey
from evenpost.wire import codec
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code, WireError

TICK_S = 0.1
RECEIVED_PER_TURN_MAX = 200
"""Messages taken from one socket before the other, the core and the journal get their turn."""
ROWS_WAITING_MAX = 200_000
"""Rows in front of the journal at which clients are asked to wait: about 50 MB."""


class Broker:
    def __init__(self, settings: Settings) -> None:
        """Opens the journal and binds both sockets. Raises JournalError, EndpointError or ResolverError."""
        self._log = logs.get()
        insecure = check_reach(settings.access, settings.clients, settings.workers)
        if insecure:
            self._log = self._log.bind(insecure=True)
        self._log_started = self._log.warning if insecure else self._log.info
        self._journal = SqliteJournal(settings.journal)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._access = Access(settings.access, self._context, self._log)
        securing = self._access.securing
        try:
            self._clients = sockets.router(self._context, settings.clients, securing("clients"))
            self._workers = sockets.router(self._context, settings.workers, securing("workers"))
            check_reach(settings.access, *self._endpoints())
        except sockets.EndpointError:
            self._access.close()
            self._context.destroy(0)
            self._journal.close()
            raise
        self._wakeup = Wakeup()
        self._queue = GroupCommit(self._journal, self._wakeup.wake)
        self._name = secrets.token_hex(4)
        self._core = Dispatcher(
            settings.core,
            boot=self._journal.boot,
            broker=self._name,
            uniform=random.SystemRandom().uniform,
            campaigns=self._journal.campaigns(),
            workers=self._journal.workers(),
            quotas=self._journal.quotas(),
            now=now(),
        )
        state = self._core.state
        self._opening = Opening(self._journal, self._queue, self._handle)
        self._queries = Queries(self._core, self._journal, self._queue)
        self._watchers = Watchers(state, self._queries, self._reply)
        self._mx = mx_lookups(settings, self._wakeup.wake, self._mx_found)
        self._stopping = 0
        self._hung_up = False
        self._rejections = Rejections(self._log)
        self._asking = Asking()
        self._settings = settings

    # --- the loop -----------------------------------------------------------------------------

    def run(self) -> int:
        """Serves until SIGTERM or SIGINT. The exit status: 0, or 1 where the journal failed."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGHUP, self._reload_asked)
        self._wakeup.by_signals(True)
        # What lives now lives on, and most of what comes dies by its reference count: look for cycles seldom.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        state = self._core.state
        clients, workers = self._endpoints()
        if not self._access.prove(clients, workers):
            self._access.close()
            self._context.destroy(0)
            return EXIT_OPEN
        self._log_started(
            "broker.started",
            version=__version__,
            clients=clients,
            workers=workers,
            journal=str(self._settings.journal),
            campaigns=len(state.campaigns),
            known_workers=len(state.workers),
        )
        try:
            self._loop()
            self._queue.finish()
        except JournalError as error:
            # Nothing that isn't on disk was promised to anyone, and nothing more goes out.
            self._log.critical("journal.failed", error=str(error))
            return 1
        finally:
            self._wakeup.by_signals(False)
            self._access.close()
            self._context.destroy(linger=500)
        self._journal.close()
        self._log.info("broker.stopped")
        return 0

    def _loop(self) -> None:
        poller = zmq.Poller()
        poller.register(self._clients, zmq.POLLIN)
        poller.register(self._workers, zmq.POLLIN)
        poller.register(self._wakeup, zmq.POLLIN)
        next_tick = 0.0
        turned_at = now().mono
        heartbeat_s = self._settings.core.heartbeat_s
        while not self._stopping:
            time = now()
            next_at = min(next_tick, self._core.next_at())
            wait_s = max(0.0, min(next_at - time.mono, self._queue.wait_s(time.mono)))
            ready = dict(poller.poll(int(wait_s * 1000 + 0.999)))
            if self._wakeup.fileno() in ready:
                self._wakeup.drain()
            if self._hung_up:
                self._hung_up = False
                self._reload()
            self._queue.step(now().mono)
            if self._mx is not None:
                self._mx.step()
            time = now()
            if time.mono - turned_at > heartbeat_s:
                # This process was frozen, its workers weren't: hear what they said before judging them.
                next_tick = time.mono + heartbeat_s
            turned_at = time.mono
            if self._workers in ready:
                self._receive(self._workers, self._from_worker)
            if self._clients in ready:
                self._receive(self._clients, self._from_client)
            time = now()
            if time.mono >= next_tick:
                next_tick = time.mono + TICK_S
                self._handle(Tick())
                self._watchers.tick(time)
                self._rejections.report()
            self._execute(self._core.dispatch(time))
            self._queue.step(time.mono)

    def _mx_found(self, domain: str, exchanger: str) -> None:
        self._handle(MxFound(domain, exchanger))

    def _signalled(self, number: int, _: Any) -> None:
        self._stopping += 1
        if self._stopping > 1:
            raise KeyboardInterrupt
        self._log.info("broker.stopping", signal=signal.Signals(number).name)

    def _reload_asked(self, _: int, __: Any) -> None:
        self._hung_up = True

    def _reload(self) -> None:
        revoked = self._access.reload()
        for worker in revoked.workers:
            self._handle(WorkerRevoked(worker))
        self._watchers.revoke(revoked.keys)

    def _endpoints(self) -> tuple[str, str]:
        return self._clients.get_string(zmq.LAST_ENDPOINT), self._workers.get_string(zmq.LAST_ENDPOINT)

    # --- what comes in ------------------------------------------------------------------------

    def _receive(
        self, router: zmq.Socket[bytes], handle: Callable[[bytes, list[bytes], PublicKey], None]
    ) -> None:
        domain = "workers" if router is self._workers else "clients"
        for _ in range(RECEIVED_PER_TURN_MAX):
            try:
                peer, frames, who = self._access.receive(router, domain)
            except zmq.Again:
                return
            if who is None:
                self._rejections.count(domain, "its key was revoked")
                continue
            try:
                handle(peer, frames, who)
            except WireError as error:
                self._rejections.count(domain, error.message)
                answer = wire.Error(error.code, error.message)
                self._send(router, peer, codec.encode(answer, codec.request_of(frames)))

    def _from_worker(self, peer: bytes, frames: list[bytes], who: PublicKey) -> None:
        envelope = codec.decode(frames, wire.FROM_WORKER)
        known = self._core.state.by_peer.get(peer)
        self._access.check_worker(who, envelope.message, known.name if known else None)
        self._handle(FromWorker(peer, envelope.request, envelope.message))

    def _from_client(self, peer: bytes, frames: list[bytes], who: PublicKey) -> None:
        envelope = codec.decode(frames, wire.FROM_CLIENT)
        request, message = envelope.request, envelope.message
        self._access.check_client(who, message)

        def answer(reply: wire.Message) -> None:
            self._reply(peer, request, reply)

        match message:
            case wire.Hello():
                answer(wire.Welcome(self._name, __version__))
            case wire.OpenCampaign():
                self._opening.open(peer, request, message)
            case wire.Status():
                self._queries.status(message, now(), answer)
            case wire.Watch():
                self._watchers.watch(peer, request, message, now(), who.key)
            case wire.Report() | wire.Trace() | wire.Explain() if self._asking.has_enough(peer):
                answer(wire.Error(Code.BUSY, f"{QUESTIONS_MAX} of your questions are open: wait"))
            case wire.Report():
                self._queries.report(message, self._asking.counted(peer, answer))
            case wire.Trace():
                self._queries.trace(message, self._asking.counted(peer, answer))
            case wire.Servers():
                answer(wire.ServersReply(self._queries.workers(now())))
            case wire.Explain():
                self._queries.explain(message, now(), self._asking.counted(peer, answer))
            case wire.Recipients() if self._queue.rows_waiting > ROWS_WAITING_MAX:
                answer(wire.Error(Code.BUSY, "more recipients are coming in than the disk takes: wait"))
            case _:
                self._handle(FromClient(peer, request, message))

    # --- what the core wants done -------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        self._execute(self._core.handle(event, now()))

    def _execute(self, commands: list[Command] | tuple[Reply | ToWorker | Raise, ...]) -> None:
        for command in commands:
            match command:
                case SendBatch():
                    self._send_batch(command)
                case Persist():
                    self._persist(command)
                case ToWorker():
                    frames = codec.encode(command.message, command.request)
                    self._send(self._workers, command.peer, frames)
                case Reply():
                    self._reply(command.peer, command.request, command.message)
                case Log():
                    getattr(self._log, command.level)(command.event, **command.fields)
                case ReadFresh() | ReadRetries() | ReadHeld() | LookUp():
                    self._queue.read(partial(answer, command, self._journal), self._handle)
                case SendTemplate():
                    self._send_template(command)
                case Raise(event):
                    self._handle(event)
                case Reopen():
                    self._reopen(command)
                case ResolveMx(domain):
                    assert self._mx is not None, "a group by mail exchanger is in the settings"
                    self._mx.ask(domain)
                case _:
                    assert_never(command)

    def _persist(self, command: Persist) -> None:
        done = partial(self._execute, command.then)
        self._queue.write(command.changes, done, urgent=not command.can_wait)

    def _send(self, router: zmq.Socket[bytes], peer: bytes, frames: list[bytes]) -> bool:
        """False where the peer has gone or doesn't read."""
        try:
            router.send_multipart([peer, *frames], zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def _reply(self, peer: bytes, request: int, message: wire.Message) -> None:
        if not self._send(self._clients, peer, codec.encode(message, request)):
            self._watchers.forget(peer)

    def _send_batch(self, command: SendBatch) -> None:
        body = {"batch": command.batch, "campaign": command.campaign, "items": command.items}
        if not self._send(self._workers, command.peer, codec.encode_raw(wire.Type.BATCH, body)):
            self._handle(SendFailed(command.peer, command.batch))

    def _send_template(self, command: SendTemplate) -> None:
        campaign = command.campaign
        template = codec.unpack_struct(campaign.template, wire.Template)
        message = wire.CampaignTemplate(campaign.number, campaign.id, campaign.created_at, template)
        self._send(self._workers, command.peer, codec.encode(message))

    def _reopen(self, command: Reopen) -> None:
        def refuse(error: wire.Error) -> None:
            self._reply(command.peer, command.request, error)

        Reopening(command, self._journal, self._queue, self._handle, refuse, lambda: now().wall).start()
