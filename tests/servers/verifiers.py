"""Who else verifies DKIM: OpenDKIM and dkimpy, told the records that DNS would give."""

import importlib
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.servers.packages import DKIMPY, OPENDKIM, UNPACKED, require

Verdicts = dict[str, str]
"""Of each signature, by its selector: `pass`, or something else."""


def opendkim(message: bytes, records: Mapping[str, str], folder: Path) -> Verdicts:
    """What OpenDKIM says of a message. `records`: names in DNS and their texts."""
    require(OPENDKIM)
    (folder / "records").write_text("".join(f"{name} {text}\n" for name, text in records.items()))
    (folder / "opendkim.conf").write_text(
        f"Mode v\nTestDNSData file:{folder}/records\nSocket inet:0@127.0.0.1\n"
    )
    (folder / "message").write_bytes(message)
    libraries = sorted({str(path.parent) for path in UNPACKED.rglob("*.so.*")})
    done = subprocess.run(
        [UNPACKED / "usr/sbin/opendkim", "-x", folder / "opendkim.conf", "-vv", "-t", folder / "message"],
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    found = re.findall(r"dkim=(\w+)[^;]*? header\.s=(\S+)", done.stdout)
    return {selector: verdict for verdict, selector in found}


def dkimpy(message: bytes, records: Mapping[str, str]) -> Verdicts:
    """What dkimpy says of it."""
    require(DKIMPY)
    folder = str(UNPACKED / "usr/lib/python3/dist-packages")
    if folder not in sys.path:
        sys.path.append(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was written for an older Python
        dkim: Any = importlib.import_module("dkim")

    def look_up(name: bytes | str, timeout: int = 5) -> bytes | None:
        text = records.get((name if isinstance(name, str) else name.decode()).rstrip("."))
        return text.encode() if text is not None else None

    verdicts = {}
    selectors = re.findall(rb"(?im)^DKIM-Signature:(?:.*\n[ \t])*?.*?\bs=([^;\s]+)", message)
    for number, selector in enumerate(selectors):
        try:
            good = dkim.DKIM(message).verify(idx=number, dnsfunc=look_up)
        except dkim.DKIMException:
            good = False
        verdicts[selector.decode()] = "pass" if good else "fail"
    return verdicts
