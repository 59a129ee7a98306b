"""After a restart nothing goes out before the known workers had the time to say what they sent."""

from broker.core.dispatcher import Dispatcher
from broker.core.events import Tick
from broker.core.settings import Settings
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now


def test_a_short_lease_leaves_workers_the_time_to_connect_again() -> None:
    settings = Settings(heartbeat_s=0.2, lease_s=1.0)
    start = Now(10.0, 1_790_000_000_000)
    core = Dispatcher(
        settings,
        boot=1,
        broker="b",
        uniform=lambda a, b: b,
        campaigns=[],
        workers=[Worker("a", 1)],
        now=start,
    )
    for seconds, recovering in ((1.5, True), (2.9, True), (3.0, False)):
        core.handle(Tick(), Now(start.mono + seconds, start.wall))
        assert (core.state.recovering_until is not None) == recovering, seconds
