"""`Client`: the same verbs for programs without an event loop, and for notebooks that have one already."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from client.api import CONNECT_TIMEOUT_S, DEFAULT_BROKER, TIMEOUT_S, AsyncClient
from client.api_steering import RetryState
from client.errors import CLOSED, ClientError
from client.input_campaign import Campaign
from client.submission_plan import Plan, ProgressCall, Receipt
from evenpost.runtime.curve import SecretKey
from evenpost.wire.messages import (
    CampaignStatus,
    Explanation,
    MessageState,
    ReportRow,
    TracePage,
    WatchUpdate,
    Welcome,
    WorkerStatus,
)

T = TypeVar("T")


class Client:
    """A client of one broker, for use from any thread.

        with Client("tcp://127.0.0.1:5550") as client:
            receipt = client.submit(Campaign.load("campaign.toml"))
            print(client.wait(receipt.campaign).counts)

    Its connection lives in a thread of its own, started by the first call. Arguments, results and errors are
    those of AsyncClient; recipients are read in the thread that calls `submit`.
    """

    def __init__(
        self,
        broker: str = DEFAULT_BROKER,
        *,
        key: str | Path | SecretKey | None = None,
        broker_key: str | Path | None = None,
        timeout: float = TIMEOUT_S,
        connect_timeout: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self.broker = broker
        self._client = AsyncClient(
            broker, key=key, broker_key=broker_key, timeout=timeout, connect_timeout=connect_timeout
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        try:
            self.welcome()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and ends its thread; what was submitted goes on. May be called twice."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(self._client.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def submit(
        self,
        campaign: Campaign,
        *,
        submission_id: str | None = None,
        skip_bad: bool = False,
        wait: bool = False,
        progress: ProgressCall | None = None,
    ) -> Receipt:
        """As AsyncClient.submit."""
        with Plan(campaign, skip_bad=skip_bad, progress=progress) as plan:
            plan.check()
            receipt = self.submit_plan(plan, submission_id)
        return receipt.ended(self.wait(receipt.campaign)) if wait else receipt

    def submit_plan(self, plan: Plan, submission_id: str | None = None) -> Receipt:
        """Sends a campaign that has been checked already."""
        welcome = self.welcome()
        stream = self._call(self._client.open_stream(plan, submission_id))
        try:
            for rows in plan.chunks(stream, welcome):
                self._call(stream.put(rows))
            self._call(stream.finish())
        except BaseException as error:
            self._call(
                self._client.give_up(stream, error, keep=(submission_id or plan.submission_id) is not None)
            )
            raise
        return plan.receipt(stream)

    def send(
        self,
        *,
        to: str,
        sender: str,
        subject: str,
        text: str | None = None,
        html: str | None = None,
        values: Mapping[str, Any] | None = None,
        priority: int = 9,
        submission_id: str | None = None,
        wait: bool = False,
        **campaign: Any,
    ) -> Receipt:
        """As AsyncClient.send."""
        return self._call(
            self._client.send(
                to=to,
                sender=sender,
                subject=subject,
                text=text,
                html=html,
                values=values,
                priority=priority,
                submission_id=submission_id,
                wait=wait,
                **campaign,
            )
        )

    @overload
    def status(self, campaign: str) -> CampaignStatus: ...
    @overload
    def status(self, campaign: None = None, *, limit: int = 50) -> list[CampaignStatus]: ...
    def status(
        self, campaign: str | None = None, *, limit: int = 50
    ) -> CampaignStatus | list[CampaignStatus]:
        """As AsyncClient.status."""
        if campaign is not None:
            return self._call(self._client.status(campaign))
        return self._call(self._client.status(limit=limit))

    def watch(self, campaign: str | None = None, *, interval: float = 0.5) -> Iterator[WatchUpdate]:
        """As AsyncClient.watch."""
        updates = self._client.watch(campaign, interval=interval)
        try:
            while (update := self._call(_next(updates))) is not None:
                yield update
        finally:
            self._close_iterator(updates)

    def wait(self, campaign: str, *, interval: float = 0.5) -> CampaignStatus:
        """As AsyncClient.wait."""
        return self._call(self._client.wait(campaign, interval=interval))

    def report(self, campaign: str, *, only: Iterable[MessageState] = ()) -> Iterator[ReportRow]:
        """As AsyncClient.report."""
        for page in self.report_pages(campaign, only=only):
            yield from page

    def report_pages(self, campaign: str, *, only: Iterable[MessageState] = ()) -> Iterator[list[ReportRow]]:
        """As AsyncClient.report_pages."""
        pages = self._client.report_pages(campaign, only=only)
        try:
            while (page := self._call(_next(pages))) is not None:
                yield page
        finally:
            self._close_iterator(pages)

    def trace(self, address: str, *, limit: int = 1_000) -> list[ReportRow]:
        """As AsyncClient.trace."""
        return self._call(self._client.trace(address, limit=limit))

    def trace_page(self, address: str, *, limit: int = 1_000) -> TracePage:
        """As AsyncClient.trace_page."""
        return self._call(self._client.trace_page(address, limit=limit))

    def explain(self, campaign: str, index: int | None = None, *, address: str | None = None) -> Explanation:
        """As AsyncClient.explain."""
        return self._call(self._client.explain(campaign, index, address=address))

    def servers(self) -> list[WorkerStatus]:
        """As AsyncClient.servers."""
        return self._call(self._client.servers())

    def pause(self, campaign: str) -> None:
        """As AsyncClient.pause."""
        self._call(self._client.pause(campaign))

    def resume(self, campaign: str) -> None:
        """As AsyncClient.resume."""
        self._call(self._client.resume(campaign))

    def cancel(self, campaign: str) -> int:
        """As AsyncClient.cancel."""
        return self._call(self._client.cancel(campaign))

    def retry_failed(self, campaign: str, *, only: Sequence[RetryState] = ()) -> int:
        """As AsyncClient.retry_failed."""
        return self._call(self._client.retry_failed(campaign, only=only))

    def drain(self, worker: str) -> None:
        """As AsyncClient.drain."""
        self._call(self._client.drain(worker))

    def maint(self, worker: str) -> None:
        """As AsyncClient.maint."""
        self._call(self._client.maint(worker))

    def ready(self, worker: str) -> None:
        """As AsyncClient.ready."""
        self._call(self._client.ready(worker))

    def set_weight(self, worker: str, weight: int | None) -> None:
        """As AsyncClient.set_weight."""
        self._call(self._client.set_weight(worker, weight))

    def set_max_connections(self, worker: str, max_connections: int | None) -> None:
        """As AsyncClient.set_max_connections."""
        self._call(self._client.set_max_connections(worker, max_connections))

    def welcome(self) -> Welcome:
        """As AsyncClient.welcome."""
        return self._call(self._client.welcome())

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs it in the connection's thread. Interrupted (Ctrl-C), it is cancelled there too."""
        with self._lock:
            if self._closed:
                coroutine.close()
                raise ClientError(CLOSED, "the client is closed")
            loop = self._loop or self._start()
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=_run, args=(self._loop,), name="evenpost-client", daemon=True
        )  # daemon: a program that forgets to close shall still end
        self._thread.start()
        return self._loop

    def _close_iterator(self, iterator: Any) -> None:
        if self._loop is not None:
            self._call(_close(iterator))


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _close(iterator: Any) -> None:
    while iterator.ag_running:  # noqa: ASYNC110  # the step that was interrupted is still being cancelled
        await asyncio.sleep(0)
    await iterator.aclose()


async def _next(iterator: Any) -> Any:
    return await anext(iterator, None)
