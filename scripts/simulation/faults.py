"""What goes wrong, and when: drawn from the seed, all of it healed in the end."""

import random
from collections.abc import Callable

from evenpost.wire.messages import Cancel, Message, Pause, Resume, RetryFailed, SetServer
from scripts.simulation.servers import Server
from scripts.simulation.worker_host import WorkerHost
from scripts.simulation.world import World

TROUBLE_S = 45.0
"""Nothing new goes wrong after this."""
FAULTS_MAX = 20
LAST_WORDS_S = 15.0
CALM_S = 1_200.0
"""After the trouble everything has to end within this."""


class Faults:
    """Breaks a world. Each fault picks its victim and how long it lasts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"{world.seed} faults")  # noqa: S311  # repeatable on purpose
        self._words: list[tuple[int, Callable[[], None]]] = [
            (3, self._broker_crashes),
            (1, self._broker_stops),
            (2, self._broker_freezes),
            (3, self._worker_crashes),
            (2, self._worker_drains),
            (3, self._worker_freezes),
            (1, self._worker_loses_log),
            (4, self._connection_breaks),
            (4, self._partition),
            (6, self._server_fails),
            (2, self._others_come),
            (1, self._clock_is_set),
            (3, self._operator_speaks),
            (1, self._agent_speaks),
            (4, self._campaign_is_steered),
        ]

    def schedule(self) -> None:
        for _ in range(self._rng.randint(0, FAULTS_MAX)):
            weights, faults = zip(*self._words, strict=True)
            fault = self._rng.choices(faults, weights)[0]
            self._world.at(self._rng.uniform(0.0, TROUBLE_S), fault)
        self._world.at(TROUBLE_S, self.heal)

    def heal(self) -> None:
        """Everybody is here and well."""
        world = self._world
        self._note("all is well")
        if not world.broker.host.up:
            world.broker.start()
        world.broker.host.thaw()
        for server in world.servers:
            server.is_.state = "up"
            server.set_external(0)
            server.is_.deferrals = server.is_.bounces = server.is_.drops = 0.0
        self._revive()
        self._last_words()
        world.at(world.time + LAST_WORDS_S, self._last_words)

    def _last_words(self) -> None:
        """Take back what was said, and once more when no earlier word can be under way."""
        world = self._world
        for worker in world.workers:
            worker.agent_says("ready")
            world.client.order(SetServer(worker.name, state="ready"))
        for submission in world.client.submissions:
            if submission.campaign:
                world.client.order(Resume(submission.campaign))

    def _revive(self) -> None:
        """From now on somebody starts what has ended."""
        for worker in self._world.workers:
            worker.host.thaw()
            self._worker_returns(worker)
        self._world.at(self._world.time + 1.0, self._revive)

    def _note(self, what: object) -> None:
        self._world.watch.note("fault", what)

    def _worker(self) -> WorkerHost:
        return self._rng.choice(self._world.workers)

    def _seconds(self) -> float:
        """How long something lasts: around the heartbeat, around the lease, or long."""
        return self._rng.choice([self._rng.uniform(0.0, 1.0), self._rng.uniform(1.0, 8.0), 15.0])

    # --- processes -------------------------------------------------------------------------

    def _broker_crashes(self) -> None:
        broker = self._world.broker
        if broker.host.up:
            self._note("broker crashes")
            broker.crash()
            self._world.at(self._world.time + self._seconds(), self._broker_returns)

    def _broker_stops(self) -> None:
        broker = self._world.broker
        if broker.host.up and not broker.host.frozen:
            self._note("broker stops")
            broker.stop()
            self._world.at(self._world.time + self._seconds(), self._broker_returns)

    def _broker_returns(self) -> None:
        if not self._world.broker.host.up:
            self._note("broker returns")
            self._world.broker.start()

    def _broker_freezes(self) -> None:
        host = self._world.broker.host
        self._note("broker freezes")
        host.freeze()
        self._world.at(self._world.time + self._seconds(), host.thaw)

    def _worker_crashes(self) -> None:
        worker = self._worker()
        if worker.host.up:
            self._note(f"{worker.name} crashes")
            worker.kill(broker_learns_s=self._rng.choice([0.0, 0.0, 8.0]))
            self._world.at(self._world.time + self._seconds(), lambda: self._worker_returns(worker))

    def _worker_returns(self, worker: WorkerHost) -> None:
        if not worker.host.up:
            self._note(f"{worker.name} returns")
            worker.start(self._world.broker.workers)

    def _worker_drains(self) -> None:
        worker = self._worker()
        self._note(f"{worker.name} is told to end")
        worker.drain()
        self._world.at(self._world.time + 2 * self._seconds(), lambda: self._worker_returns(worker))

    def _worker_freezes(self) -> None:
        host = self._worker().host
        self._note("a worker freezes")
        host.freeze()
        self._world.at(self._world.time + self._seconds(), host.thaw)

    def _worker_loses_log(self) -> None:
        worker = self._worker()
        if worker.host.up:
            self._note(f"{worker.name} crashes and loses its log")
            worker.kill(broker_learns_s=self._rng.choice([0.0, 8.0]))
            worker.lose_log()
            self._world.at(self._world.time + self._seconds(), lambda: self._worker_returns(worker))

    def _clock_is_set(self) -> None:
        world = self._world
        host = self._rng.choice([world.broker.host, *(worker.host for worker in world.workers)])
        self._note("a wall clock is set")
        host.skew_ms += self._rng.choice([-5_000, -1_000, 1_000, 5_000])

    # --- the network -----------------------------------------------------------------------

    def _connection_breaks(self) -> None:
        world, rng = self._world, self._rng
        dealer = rng.choice([world.client.dealer, *(worker.dealer for worker in world.workers)])
        self._note(f"connection of {dealer.name} breaks")
        learns = [0.0, 0.0, rng.uniform(0, 4)]
        world.network.cut_dealer(dealer, rng.choice(learns), rng.choice(learns))

    def _partition(self) -> None:
        world, rng = self._world, self._rng
        some = [worker.dealer for worker in world.workers if rng.random() < 0.5]
        seconds, survives = self._seconds(), rng.random() < 0.5
        self._note(f"partition of {[dealer.name for dealer in some]} for {seconds:.1f} s")
        for dealer in some:
            world.network.partition(dealer, seconds, survives=survives)

    # --- servers ---------------------------------------------------------------------------

    def _server_fails(self) -> None:
        server = self._rng.choice(self._world.servers)
        server.is_.state = self._rng.choice(["down", "reject", "hang", "tarpit", "swallow"])
        self._note(f"{server.name}: {server.is_.state}")
        if server.is_.state in ("down", "reject") and self._rng.random() < 0.7:
            server.hang_up_on_all()
        self._world.at(self._world.time + self._seconds(), lambda: self._server_returns(server))

    def _server_returns(self, server: Server) -> None:
        self._note(f"{server.name} is up")
        server.is_.state = "up"

    def _others_come(self) -> None:
        server = self._rng.choice(self._world.servers)
        server.set_external(self._rng.randint(0, 4))
        self._world.at(self._world.time + self._seconds(), lambda: server.set_external(0))

    # --- people ----------------------------------------------------------------------------

    def _order(self, message: Message) -> None:
        self._note(message)
        self._world.client.order(message)

    def _operator_speaks(self) -> None:
        name, rng = self._worker().name, self._rng
        word = rng.choice(
            [
                SetServer(name, state="drain"),
                SetServer(name, state="maint"),
                SetServer(name, state="ready"),
                SetServer(name, weight=rng.choice([0, 10, 200])),
                SetServer(name, max_connections=rng.choice([0, 1, 3])),
            ]
        )
        self._order(word)

    def _agent_speaks(self) -> None:
        self._note("an agent speaks")
        self._worker().agent_says(
            self._rng.choice(["ready", "drain", "maint"]), self._rng.choice([None, 1, 300])
        )

    def _campaign_is_steered(self) -> None:
        submitted = [s.campaign for s in self._world.client.submissions if s.campaign]
        if not submitted:
            return
        campaign = self._rng.choice(submitted)
        order: Message
        match self._rng.choice(["pause", "pause", "cancel", "retry", "retry"]):
            case "pause":
                order = Pause(campaign)
                self._world.at(self._world.time + self._seconds(), lambda: self._order(Resume(campaign)))
            case "cancel":
                order = Cancel(campaign)
            case _:
                order = RetryFailed(campaign)
        self._order(order)
