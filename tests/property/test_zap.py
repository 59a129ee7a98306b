"""The ZAP handler's answer: right only for what is exactly right, and never an exception."""

from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from broker.ring import Ring
from broker.zap import answer
from evenpost.runtime.curve import PublicKey, Role, new_key

CLIENT = PublicKey(Role.CLIENT, "c", new_key(Role.CLIENT, "c").public)
WORKER = PublicKey(Role.WORKER, "w", new_key(Role.WORKER, "w").public, ("w",))
RING = Ring(by_key={CLIENT.key: CLIENT, WORKER.key: WORKER})


def request(key: str = CLIENT.key, domain: bytes = b"clients", **changes: bytes) -> list[bytes]:
    fields = {
        "version": b"1.0", "id": b"7", "domain": domain, "address": b"127.0.0.1", "identity": b"",
        "mechanism": b"CURVE", "key": z85.decode(key),
    }  # fmt: skip
    return list((fields | changes).values())


def test_an_allowed_key_gets_in_with_its_name_and_key() -> None:
    version, number, status, _, user, metadata = answer(request(), RING)
    assert (version, number, status, user) == (b"1.0", b"7", b"200", b"client:c")
    assert metadata == b"\x0eX-Evenpost-Key\0\0\0\x28" + CLIENT.key.encode()
    assert answer(request(WORKER.key, b"workers"), RING)[4] == b"worker:w"


def test_a_key_gets_in_where_it_belongs_only() -> None:
    assert answer(request(domain=b"workers"), RING)[2] == b"400"
    assert answer(request(WORKER.key, b"clients"), RING)[2] == b"400"
    assert answer(request(), Ring())[2] == b"400"


def broken() -> list[list[bytes]]:
    key = z85.decode(CLIENT.key)
    head = request()[:6]
    return [
        [], [b"1.0"], head, [*request(), b""], request(version=b"2.0"), request(mechanism=b"NULL"),
        request(mechanism=b"PLAIN"), request(mechanism=b"curve"), request(domain=b""),
        request(domain=b"\xff"), request(domain=b"global"), [*head, b""], [*head, CLIENT.key.encode()],
        [*head, b"\0" * 32], [*head, b"\xff" * 32], [*head, key + b"\0"], [*head, key[:31]],
    ]  # fmt: skip


def test_whatever_is_wrong_is_refused() -> None:
    for frames in broken():
        reply = answer(frames, RING)
        assert len(reply) == 6 and reply[2] == b"400" and reply[4:] == [b"", b""], frames


@given(st.lists(st.binary(max_size=64), max_size=12))
def test_random_frames_are_refused(frames: list[bytes]) -> None:
    reply = answer(frames, RING)
    assert len(reply) == 6 and reply[2] == b"400"


@given(
    st.integers(0, 6), st.binary(max_size=64) | st.sampled_from([b"workers", b"NULL", z85.decode(WORKER.key)])
)
def test_one_frame_that_is_another_is_refused(place: int, other: bytes) -> None:
    frames = request()
    matters = place not in (1, 3, 4) and frames[place] != other
    frames[place] = other
    assert (answer(frames, RING)[2] == b"400") == matters
