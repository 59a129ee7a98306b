"""A wall clock that a test sets while processes run; their monotonic clocks go on as ever."""

from pathlib import Path

from tests.servers.packages import SCRIPT

LIBRARY = "faketime/libfaketimeMT.so.1"
_FOLDERS = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/aarch64-linux-gnu"), Path("/usr/lib"))


def _library() -> Path | None:
    return next((folder / LIBRARY for folder in _FOLDERS if (folder / LIBRARY).exists()), None)


def require() -> None:
    """Skips the test, and says what to install, where libfaketime is missing."""
    if _library() is None:
        import pytest

        pytest.skip(f"libfaketime is missing: apt-get install faketime, or run {SCRIPT}")


class WallClock:
    """Processes started with this environment read their wall clock here."""

    def __init__(self, folder: Path, set_by: str = "+0") -> None:
        self._file = folder / "faketime"
        self.set(set_by)
        self.environment = {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            # Its "fix" makes waits on the monotonic clock last for seconds.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, by: str) -> None:
        """By so much from now on, as faketime writes it: "+1h", "-1y"."""
        new = self._file.with_suffix(".new")
        new.write_text(by + "\n")
        new.replace(self._file)
