"""Who may do what, by the role of its key. Pure: an empty answer means yes, else it is the reason."""

from evenpost.runtime.curve import ANY_WORKER, PublicKey, Role
from evenpost.wire import messages as wire

ADMIN_ONLY = frozenset({wire.Type.SET_SERVER})
"""Servers are everybody's: one client's drain stops the mail of all others. Campaigns are a client's work."""

EVERYONE = PublicKey(Role.ADMIN, "", "", (ANY_WORKER,))
"""Whoever connects to a broker without CURVE, which listens on loopback only unless told otherwise."""


def client_refusal(who: PublicKey, message: wire.Message) -> str:
    """Why a peer of the clients' socket may not ask for this."""
    if message.TYPE in ADMIN_ONLY and who.role is not Role.ADMIN:
        return f"{who.user_id} may not change servers: only an admin's key may"
    return ""


def worker_refusal(who: PublicKey, message: wire.Message, registered: str | None) -> str:
    """Why a peer of the workers' socket may not say this. `registered`: the worker as which its connection
    has said hello, by the broker's books: a routing id can be anybody's choice."""
    name = message.worker if isinstance(message, wire.WorkerHello) else registered
    if name is None or who.may_be(name):
        return ""
    allowed = ", ".join(map(repr, who.workers)) or "none"
    return f"the key of {who.user_id} may not be worker {name!r}: its worker names are {allowed}"
