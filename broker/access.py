"""Who may talk to this broker, and what about: its own key, the ring of allowed keys, the rights of each."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog
import zmq

from broker import rights
from broker.reach import beyond_loopback
from broker.ring import Ring, read_ring
from broker.self_check import open_door
from broker.settings import AccessSettings
from broker.zap import KEY_PROPERTY, ZapHandler
from evenpost.runtime.curve import PublicKey, Role, serve
from evenpost.runtime.sockets import EndpointError
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code, WireError

EXIT_OPEN = 77
"""EX_NOPERM of sysexits.h: strangers aren't refused, so nobody is served."""


class OpenToAllError(EndpointError):
    """An endpoint beyond loopback without CURVE, which nobody asked for."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a new ring takes away."""

    workers: tuple[str, ...]
    """Names of workers that said hello by a key that may not be them any more."""
    keys: frozenset[str]
    """Keys that may not be on the clients' socket any more."""


class Access:
    """One a broker. Without CURVE everybody is `rights.EVERYONE`, and nothing is asked."""

    def __init__(
        self,
        settings: AccessSettings,
        context: "zmq.Context[zmq.Socket[bytes]]",
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._log = log
        self._ring = Ring()
        self._zap: ZapHandler | None = None
        self._workers: dict[str, str] = {}
        """The key by which each worker has said hello last."""
        if settings.own is not None and settings.keys is not None:
            self._ring, wrong = read_ring(settings.keys, self._ring)
            self._tell(wrong)
            self._zap = ZapHandler(context, lambda: self._ring)

    def close(self) -> None:
        """Before the context ends."""
        if self._zap is not None:
            self._zap.close()

    def securing(self, domain: str) -> "Callable[[zmq.Socket[bytes]], None] | None":
        """What gives the socket of a domain (`clients`, `workers`) its keys before it binds."""
        own = self._settings.own
        return None if own is None else lambda made: serve(made, own, domain)

    def prove(self, *endpoints: str) -> bool:
        """Whether bound endpoints refuse strangers; logs what is wrong, or who may come in."""
        own = self._settings.own
        if own is None:
            return True
        for endpoint in endpoints:
            if wrong := open_door(endpoint, own.public):
                self._log.critical("access.open", error=wrong)
                return False
        self._log.info("access.proven", broker=own.name, **self._counts())
        return True

    def holder(self, domain: str) -> "Callable[[zmq.Frame], PublicKey | None] | None":
        """What tells whose a message is by its first frame, for the socket of a domain: None where the key
        was revoked. Without CURVE there is nothing to tell: everybody is `rights.EVERYONE`.

        The key is looked at with each message, not once a routing id: a peer may choose its routing id, and
        so take one that another had. Only the first frame has to be taken uncopied: that costs nothing, while
        doing so with all takes half as long again.
        """
        if self._settings.own is None:
            return None

        def who(first: zmq.Frame) -> PublicKey | None:
            try:
                return self._ring.holder(str(first.get(KEY_PROPERTY)), domain)
            except zmq.ZMQError:  # it came by no key
                return None

        return who

    def check_client(self, who: PublicKey, message: wire.Message) -> None:
        """Raises WireError (`forbidden`)."""
        if refusal := rights.client_refusal(who, message):
            raise WireError(Code.FORBIDDEN, refusal)

    def check_worker(self, who: PublicKey, message: wire.Message, registered: str | None) -> None:
        """Raises WireError (`forbidden`). `registered`: the worker that this connection is known as."""
        if refusal := rights.worker_refusal(who, message, registered):
            raise WireError(Code.FORBIDDEN, refusal)

    def registered(self, worker: str, who: PublicKey) -> None:
        """The core has taken a worker's hello: it bounds how many there are, and a key may have any name."""
        self._workers[worker] = who.key

    def reload(self) -> Revoked:
        """Reads the folder again. What can't be read is logged and stays as it was."""
        if self._settings.own is None or self._settings.keys is None:
            self._log.info("access.reloaded", keys=None)
            return Revoked((), frozenset())
        former = self._ring
        self._ring, wrong = read_ring(self._settings.keys, former)
        self._tell(wrong)
        now = self._ring.by_key
        gone = [who for key, who in former.by_key.items() if key not in now]
        come = [who for key, who in now.items() if key not in former.by_key]
        self._log.info(
            "access.reloaded", added=[who.user_id for who in come], revoked=[who.user_id for who in gone],
            **self._counts(),
        )  # fmt: skip
        # A worker's key may be there still, but not for this name, or not for workers any more.
        lost = [
            name
            for name, key in self._workers.items()
            if (who := self._ring.holder(key, "workers")) is None or not who.may_be(name)
        ]
        for name in lost:
            del self._workers[name]
        outside = frozenset(k for k in former.by_key if self._ring.holder(k, "clients") is None)
        return Revoked(tuple(lost), outside)

    def _counts(self) -> dict[str, int]:
        roles = [who.role for who in self._ring.by_key.values()]
        return {f"{role}s": roles.count(role) for role in (Role.CLIENT, Role.WORKER, Role.ADMIN)}

    def _tell(self, wrong: list[str]) -> None:
        for reason in wrong:
            self._log.error("access.bad_key_file", reason=reason)


def check_reach(settings: AccessSettings, *endpoints: str) -> bool:
    """True where one of them can be reached from other hosts without a key, as the settings allow. Raises
    OpenToAllError where they don't."""
    if settings.own is not None:
        return False
    for endpoint in endpoints:
        if beyond_loopback(endpoint):
            if settings.insecure:
                return True
            raise OpenToAllError(
                f"{endpoint} can be reached from other hosts, and anybody there could send mail: "
                "make keys (evenpost keys new broker NAME) and give --curve-key and --keys, or listen on "
                "127.0.0.1; --insecure lets it be as it is"
            )
    return False
