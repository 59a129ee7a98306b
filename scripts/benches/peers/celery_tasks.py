"""The Celery application: one task is one message. Runs in the contestants' own environment."""

import os
import smtplib

from celery import Celery

from scripts.benches.peers import letter

app = Celery("newsletter", broker=os.environ["REDIS"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=128,  # the guide "Optimizing": large for many short tasks
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)
_connections: list[smtplib.SMTP] = []
"""The one of this process, kept."""


@app.task(autoretry_for=(smtplib.SMTPException, OSError), retry_backoff=True, max_retries=10)  # type: ignore[untyped-decorator]  # isn't installed where this is checked
def send(row: dict[str, str]) -> None:
    message = letter.compose(row)
    if not _connections:
        _connections.append(smtplib.SMTP("127.0.0.1", int(os.environ["SINK"]), local_hostname="celery.test"))
    try:
        _connections[0].send_message(message)
    except (smtplib.SMTPException, OSError):
        _connections.clear()  # the next try makes a new one
        raise
