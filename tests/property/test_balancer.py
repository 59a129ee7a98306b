"""The heaps give what a scan over all workers would give."""

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.balancer import Balancer, in_service
from broker.core.settings import Settings
from broker.core.state import Batch
from broker.core.worker_state import Worker

POOLS = ("x", "y")


def workers() -> st.SearchStrategy[list[Worker]]:
    made = st.builds(
        lambda limit, weight, pools, pace: (limit, weight, pools, pace),
        st.integers(1, 6),
        st.sampled_from([50, 100, 300]),
        st.sets(st.sampled_from(POOLS)),
        st.sampled_from([0.0, 0.02, 0.1]),
    )
    return st.lists(made, min_size=1, max_size=8).map(
        lambda rows: [
            Worker(
                f"w{n}",
                n,
                connected=True,
                welcomed=True,
                max_connections=limit,
                reported_limit=limit,
                hello_weight=weight,
                pools=frozenset(pools),
                seconds_a_message=pace,
            )
            for n, (limit, weight, pools, pace) in enumerate(rows)
        ]
    )


Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["pick", "pick", "pick", "end", "beat", "fail", "heal", "drain", "ready", "limit", "time"]
        ),
        st.integers(0, 7),
        st.integers(0, 9),
    ),
    max_size=80,
)


def eligible(balancer: Balancer, worker: Worker, now: float) -> bool:
    if worker.breaker.paused_until > now:
        return False
    if in_service(worker):
        return worker.in_flight < balancer.limit(worker, now)
    well = worker.welcomed and worker.state == "ready"
    return well and worker.breaker.lets_probe(now) and not worker.batches


@settings(max_examples=400, deadline=None)
@given(workers(), steps, st.sampled_from(["least-connections", "least-time"]))
def test_a_pick_is_the_best_of_all_eligible(fleet: list[Worker], todo: list[Step], policy: str) -> None:
    balancer = Balancer(Settings(policy=policy, slow_start_s=10.0))  # type: ignore[arg-type]  # one of two
    now, number = 0.0, 0
    for worker in [*fleet, *fleet]:  # twice: who has no history is ranked by the mean of the others
        balancer.update(worker, now)
    for what, who, detail in todo:
        worker = fleet[who % len(fleet)]
        match what:
            case "pick":
                tag = (None, *POOLS)[detail % 3]
                urgent = detail % 2 == 0
                found = balancer.pick(tag, now, urgent=urgent)
                able = [w for w in fleet if (tag is None or tag in w.pools) and eligible(balancer, w, now)]
                # So few connections have no reserve: whoever is free may be used.
                assert (found is not None) == bool(able)
                if found is None:
                    continue
                picked, choice = found
                keys = {w.name: balancer.key(w, now) for w in able}
                assert picked in able
                assert choice.key <= min(keys.values()) + 1e-9
                assert (choice.runner_up == "") == (len(able) == 1)
                number += 1
                picked.batches[number] = Batch(number, picked, None, {})  # type: ignore[arg-type]  # not looked at
                worker = picked
            case "end":
                if worker.batches:
                    del worker.batches[next(iter(worker.batches))]
            case "beat":
                worker.busy, worker.external = worker.in_flight, detail
                worker.in_flight_at_report = worker.in_flight
            case "fail":
                worker.breaker.failed(now, now, lambda a, b: b)
            case "heal":
                worker.breaker.succeeded(now, now)
            case "drain" | "ready":
                worker.operator_state = what  # type: ignore[assignment]  # one of the words
            case "limit":
                worker.reported_limit = 1 + detail
            case "time":
                now += detail
                balancer.refresh(now)
                for changing in fleet:
                    if changing.breaker.is_changing(now):
                        balancer.update(changing, now)
                continue
        # Failures and least-time's mean change with time and with others: as `workers.check` does each tick.
        for each in [*fleet, *fleet]:
            balancer.update(each, now)
    free = sum(max(0, balancer.limit(w, now) - w.in_flight) for w in fleet if in_service(w))
    assert balancer.connections() - balancer._used[None] >= free
