"""The Celery tasks: each calls its function in `operations` and has no result.

A task is a hint. What is due stands in the tables, so one that is lost or runs twice does no harm.
"""

from __future__ import annotations

from celery import shared_task

from botsessions import operations


@shared_task(name="botsessions.sweep", ignore_result=True)
def sweep() -> None:
    """End sessions that have expired; for Celery beat, every minute or so."""
    operations.sweep()


@shared_task(name="botsessions.deadlines", ignore_result=True)
def deadlines() -> None:
    """Let flows know that their deadlines have passed; for Celery beat, every few seconds."""
    operations.deadlines()


@shared_task(name="botsessions.recover", ignore_result=True)
def recover() -> None:
    """Handle what crashed processes left behind; for Celery beat, every few seconds."""
    operations.recover()
