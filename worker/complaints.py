"""What may recur many times a second is logged now and then."""

from typing import Any

from evenpost.runtime import clock
from evenpost.runtime.handshakes import Failure
from evenpost.wire.errors import WireError

BAD_FRAMES_EVERY_S = 10.0
REFUSALS_EVERY_S = 60.0
"""The same refusal of our connection."""


class Complaints:
    """Of one worker, about its broker."""

    def __init__(self, logger: Any, broker: str) -> None:
        self._logger = logger
        self._broker = broker
        self._bad_frames = 0
        self._bad_frame_at = float("-inf")
        self._refusal = ""
        self._refusal_at = float("-inf")

    def refused(self, failure: Failure) -> None:
        """The worker goes on trying: a key may be allowed any time."""
        now = clock.now().mono
        if failure.reason != self._refusal or now >= self._refusal_at + REFUSALS_EVERY_S:
            self._refusal, self._refusal_at = failure.reason, now
            self._logger.error("worker.no_access", broker=self._broker, reason=failure.reason)

    def bad_frame(self, error: WireError) -> None:
        self._bad_frames += 1
        now = clock.now().mono
        if now >= self._bad_frame_at + BAD_FRAMES_EVERY_S:
            self._bad_frame_at = now
            self._logger.warning(
                "worker.bad_frame", code=error.code, reason=error.message, so_far=self._bad_frames
            )
