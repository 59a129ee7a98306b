"""Several processes as one worker: what each is called and what part of the whole it has. Pure.

`evenpost-worker --name relay-1 --processes 2` is two workers to the broker, relay-1/1 and relay-1/2.
"""

import re

_OF_SEVERAL = re.compile(r"(.+)/([1-9][0-9]{0,3})")


def process_name(worker: str, number: int) -> str:
    """The name of a worker's process, by its number from 1."""
    return f"{worker}/{number}"


def parted(name: str) -> tuple[str, int]:
    """The worker and the number of its process; the name itself and 0 for one that is no part."""
    found = _OF_SEVERAL.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, 0)


def part(total: int, number: int, processes: int) -> int:
    """What one of `processes` has of `total`. All parts together are the total; the first may have one more
    than the last."""
    return total // processes + (number <= total % processes)
