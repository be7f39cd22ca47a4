"""The Celery tasks: each calls its function in `operations` and has no result.

A task is a hint. What is due stands in the tables, so one that is lost or runs twice does no harm.
`schedule.beat_schedule` says when Celery beat sends each.
"""

from __future__ import annotations

from celery import shared_task

from botsessions import operations
from botsessions.operations.heartbeat import beat


@shared_task(name="botsessions.recover", ignore_result=True)
def recover() -> None:
    """Handle what crashed processes left behind."""
    operations.recover()
    beat("recover")


@shared_task(name="botsessions.deadlines", ignore_result=True)
def deadlines() -> None:
    """Let flows know that their deadlines have passed."""
    operations.deadlines()
    beat("deadlines")


@shared_task(name="botsessions.sweep", ignore_result=True)
def sweep() -> None:
    """End sessions that have expired."""
    operations.sweep()
    beat("sweep")


@shared_task(name="botsessions.delete_messages", ignore_result=True)
def delete_messages() -> None:
    """Work off bulk deletions."""
    operations.delete_messages()
    beat("delete_messages")


@shared_task(name="botsessions.erase", ignore_result=True)
def erase() -> None:
    """Go on with erasures that waited for somebody."""
    operations.finish_erasures()
    beat("erase")


@shared_task(name="botsessions.prune", ignore_result=True)
def prune() -> None:
    """Delete or anonymise what has been kept for as long as its bot keeps it."""
    operations.prune()
    beat("prune")
