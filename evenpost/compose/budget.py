"""What one message may cost: a template that would run for a minute, or fill the memory, is refused at once.

Two bounds. *Steps* are counted, so that the same template on the same data always gives the same: loop
rounds, calls, and the sizes of what filters, comparisons and operators work on. The processor's *time* is
looked at now and then, for what the steps misjudge. No thread or signal is needed for that.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jinja2.exceptions import SecurityError

from evenpost.compose import limits
from evenpost.compose.transfer import given

_CHARS_A_STEP = 256
_CHARS_AN_ITEM = 8
"""An item of a list is as much work as so many characters."""
_ITEMS_A_STEP = 8
_STEPS_A_LOOK = 2_048
"""Reading the processor's clock costs as much as a few steps."""


class Budget:
    """Of one sandbox; `renew` it for each message."""

    __slots__ = ("_began_s", "_look_at", "steps_left")

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.steps_left = limits.STEPS_MAX
        self._look_at = limits.STEPS_MAX - _STEPS_A_LOOK
        self._began_s = -1.0  # the first look sets it: most messages never come to one

    def spend(self, steps: int) -> None:
        """Raises SecurityError when it is used up."""
        self.steps_left -= steps
        if self.steps_left < self._look_at:
            self._look()

    def spend_on(self, value: Any) -> None:
        """For work on a text or on a list's items, whatever they are."""
        if isinstance(value, (str, bytes)):
            self.spend(1 + len(value) // _CHARS_A_STEP)
        elif isinstance(value, (list, tuple, dict, range, set, frozenset)):
            self.spend(1 + len(value) * _CHARS_AN_ITEM // _CHARS_A_STEP)

    def counted(self, items: Iterable[Any], steps: int = 1) -> Iterator[Any]:
        """The items; each costs that much."""
        for item in items:
            self.spend(steps)
            yield item

    def weigh(self, value: Any) -> None:
        """For what turns a value into text, sorts or compares it. Raises SecurityError for lists of more than
        a text may have, whatever they are nested in: `[[x] * 1000] * 1000` has a million."""
        self.spend_on(value)
        if isinstance(value, (list, tuple, dict, set, frozenset)):
            found = measure(value)
            self.spend(found.chars // _CHARS_A_STEP + found.items // _ITEMS_A_STEP)
        else:
            allow_bits(value)

    def _look(self) -> None:
        if self.steps_left < 0:
            raise SecurityError(
                f"more than {limits.STEPS_MAX:,} loop rounds, calls and kilobytes worked on in one message"
            )
        self._look_at = self.steps_left - _STEPS_A_LOOK
        now_s = time.thread_time()
        if self._began_s < 0:
            self._began_s = now_s
        elif now_s - self._began_s > limits.PROCESSOR_S_MAX:
            raise SecurityError(f"more than {limits.PROCESSOR_S_MAX:g} s of computing in one message")


def allow(size: int) -> None:
    """Raises SecurityError for a text or list that is too long."""
    if size > limits.VALUE_CHARS_MAX:
        raise SecurityError(
            f"a text or list of {size:,} inside the template; at most {limits.VALUE_CHARS_MAX:,}"
        )


def allow_bits(*numbers: Any) -> None:
    """Raises SecurityError for an integer that is too long; what is none may be anything."""
    for number in numbers:
        if isinstance(number, int):
            allow_bit_length(number.bit_length())


def allow_bit_length(bits: int) -> None:
    if bits > limits.INTEGER_BITS_MAX:
        raise SecurityError(f"a number of more than {limits.INTEGER_BITS_MAX:,} bits")


def checked_given(budget: Budget, value: Any) -> Any:
    """given(), and what it becomes as text is bounded."""
    if isinstance(value, (list, tuple, dict)):
        budget.weigh(value)
    return given(value)


class Measure(NamedTuple):
    """Of a value: all that is in it, counted as often as it would be written."""

    chars: int
    """Characters, and one for each item."""
    items: int
    depth: int


def measure(value: Any) -> Measure:
    """Raises SecurityError when its characters and items are too many, or nested too deeply: Python's own
    hash of a tuple in tuples in tuples ends the process."""
    chars = items = deepest = 0
    stack: list[tuple[Any, int]] = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        items += 1
        deepest = max(deepest, depth)
        if isinstance(item, (str, bytes)):
            chars += len(item)
        elif isinstance(item, (list, tuple, set, frozenset, dict)):
            if depth > limits.NESTING_MAX:
                raise SecurityError(f"lists in lists, more than {limits.NESTING_MAX} deep")
            chars += len(item) - 1
            children = item if not isinstance(item, dict) else (*item.keys(), *item.values())
            if chars <= limits.VALUE_CHARS_MAX:
                stack += [(child, depth + 1) for child in children]
        elif isinstance(item, int):
            chars += item.bit_length() // 3
        chars += 1
        if chars > limits.VALUE_CHARS_MAX and isinstance(value, (list, tuple, set, frozenset, dict)):
            allow(chars)
    return Measure(chars, items, deepest)
