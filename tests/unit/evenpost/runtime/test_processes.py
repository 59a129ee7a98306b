import pytest

from evenpost.runtime.processes import part, parted, process_name


@pytest.mark.parametrize(("total", "processes"), [(20, 1), (20, 3), (2, 3), (0, 2), (7, 7)])
def test_all_parts_together_are_the_whole(total: int, processes: int) -> None:
    parts = [part(total, number, processes) for number in range(1, processes + 1)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1 and parts == sorted(parts, reverse=True)


def test_a_name_tells_worker_and_number() -> None:
    assert parted(process_name("relay-1", 12)) == ("relay-1", 12)
    assert parted("eu/relay/2") == ("eu/relay", 2)
    for name in ("relay-1", "relay/", "/1", "relay/0", "relay/x", "relay/01", "relay/1/x"):
        assert parted(name) == (name, 0)
