"""What a worker has to do in the tests that kill it: `python -m tests.processes.operate`.

`prepare` stores work of every kind, `left` prints what is not done, by kind.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import django

from botsessions import Bot, Router, Session, SessionController, Update
from botsessions.platforms.base import Deletion
from botsessions.platforms.local import LocalPlatform

MESSAGES, BATCH = 2000, 10
SESSIONS = 150

router = Router()


class Slow(LocalPlatform):
    """Takes its time to delete, and writes down what it was asked for and what it has answered."""

    delete_batch_size = BATCH

    async def delete_messages(
        self, chat: str, ids: Sequence[str], business: str = ""
    ) -> dict[str, Deletion]:
        self._write("asked", ids)
        await asyncio.sleep(0.4)
        self._write("answered", ids)
        return dict.fromkeys(ids, Deletion.DELETED)

    def _write(self, name: str, ids: Sequence[str]) -> None:
        line = "".join(f"{id}\n" for id in ids).encode()
        path = Path(os.environ["VAR_DIR"]) / name
        handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)


@router.waiter(timeout=1)
async def ask(control: SessionController) -> None:
    control.stop()


@ask.timed_out
async def late(session: Session) -> None:
    session.data["late"] = session.data.get("late", 0) + 1


@router.expired
async def expired(session: Session, bot: Bot) -> None:
    await bot.send(session.chat, "bye")


@router.message()
async def count(update: Update, session: Session) -> None:
    session.data["n"] = session.data.get("n", 0) + 1
    if update.text == "ask":
        await session.begin(ask)


def prepare() -> None:
    from asgiref.sync import async_to_sync
    from django.utils import timezone

    from botsessions.mailboxes.base import Arrival
    from botsessions.mailboxes.database import DatabaseMailbox
    from botsessions.models import BotSession, BotUpdate, Erasure, TrackedMessage
    from botsessions.operations import begin_deletion
    from botsessions.operations.selection import Selection
    from botsessions.operations.subject import Subject
    from tests.kit import handle, message

    now = timezone.now()
    BotUpdate.objects.create(
        bot="demo",
        update_id="ancient",
        type="message",
        mailbox="demo:x:x",
        status="done",
        received_at=now - timedelta(days=30),
    )
    asked = message("ask", user="asked")
    async_to_sync(handle)(asked)
    stamps = {"created_at": now, "updated_at": now}
    BotSession.objects.bulk_create(
        BotSession(bot="demo", chat=f"old{each}", expires_at=now - timedelta(hours=1), **stamps)
        for each in range(SESSIONS)
    )
    talkative = BotSession.objects.create(bot="demo", chat="talk", **stamps)
    TrackedMessage.objects.bulk_create(
        TrackedMessage(
            session=talkative, chat="talk", message_id=f"{each}", direction="outgoing", sent_at=now
        )
        for each in range(MESSAGES)
    )
    begin_deletion(Selection("demo", chat="talk"))
    BotSession.objects.create(bot="demo", chat="eve", user="eve", data={"n": 1}, **stamps)
    Erasure.objects.create(
        bot="demo",
        kind="user",
        subject=Subject("demo", user="eve").pseudonym,
        selection={"user": "eve"},
        due_at=now,
        created_at=now,
    )
    waiting = [message("hello", user="waiting", id=f"w{each}") for each in range(5)]
    DatabaseMailbox().store([Arrival(each, "demo:waiting:waiting") for each in waiting])


def left() -> dict[str, Any]:
    from botsessions.models import BotSession, BotUpdate, Erasure, MessageDeletion

    [deletion] = MessageDeletion.objects.all()
    counts = {
        "expired": BotSession.objects.filter(chat__startswith="old").count(),
        "messages": deletion.total - deletion.done or deletion.status != "done",
        "erasures": Erasure.objects.filter(finished_at=None).count(),
        "eve": BotSession.objects.filter(chat="eve").count(),
        "waiting": BotUpdate.objects.filter(update_id__startswith="w", status="pending").count(),
        "flows": BotSession.objects.filter(flow__isnull=False).count(),
        "ancient": BotUpdate.objects.filter(update_id="ancient").count(),
    }
    return {name: number for name, number in counts.items() if number}


if __name__ == "__main__":
    django.setup()
    if sys.argv[1] == "prepare":
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        prepare()
    else:
        print(json.dumps(left()))
