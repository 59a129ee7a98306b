"""Enqueues so many newsletters for each line of its input: one task each, or in chunks of this argument."""

import sys

from scripts.benches.peers import letter
from scripts.benches.peers.celery_tasks import app, send

chunk = int(sys.argv[1])
with app.producer_or_acquire() as producer:
    for line in sys.stdin:
        if chunk > 1:
            send.chunks(((row,) for row in letter.rows(int(line))), chunk).apply_async(producer=producer)
        else:
            for row in letter.rows(int(line)):
                send.apply_async((row,), producer=producer)
        print(line, end="", flush=True)
