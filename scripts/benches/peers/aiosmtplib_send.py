"""Sends so many newsletters for each line of its input, over connections that it keeps. On uvloop."""

import asyncio
import os
import sys
from collections.abc import Iterator

import aiosmtplib
import uvloop

from scripts.benches.peers import letter

CONNECTIONS = int(sys.argv[1])


async def send(smtp: aiosmtplib.SMTP, rows: Iterator[dict[str, str]]) -> None:
    for row in rows:
        await smtp.send_message(letter.compose(row))


async def main() -> None:
    pool = [
        aiosmtplib.SMTP(
            hostname="127.0.0.1",
            port=int(os.environ["SINK"]),
            local_hostname="aiosmtplib.test",
            start_tls=False,
        )
        for _ in range(CONNECTIONS)
    ]
    await asyncio.gather(*(smtp.connect() for smtp in pool))
    while line := await asyncio.to_thread(sys.stdin.readline):
        rows = letter.rows(int(line))  # the connections share it
        await asyncio.gather(*(send(smtp, rows) for smtp in pool))
        print(line, end="", flush=True)


uvloop.run(main())
