"""Ask for the pages of the admin and the API, in a process of its own.

`python -m benchmarks.browse`: the database is one that `crowd` filled. Prints a line of JSON for
each page: its title, and for each who asks how many queries it took, its median and its worst
milliseconds.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import django

from benchmarks.crowd import BUSY, NEW, NONE, OLD

TIMES = 5

SESSIONS = "/admin/botsessions/botsession/"
MESSAGES = "/admin/botsessions/trackedmessage/"
UPDATES = "/admin/botsessions/botupdate/"
APP = "/admin/botsessions/"

#: What is asked for, and of it (with what is between braces) which page.
PAGES = {
    "Front page": "/admin/",
    "Sessions": SESSIONS,
    "Sessions, a page far back": f"{SESSIONS}?p={{middle}}",
    "Sessions of the largest bot": f"{SESSIONS}?bot=shop",
    "Sessions of a bot that has few, all old": f"{SESSIONS}?bot=pilot",
    "Sessions of a platform that has few": f"{SESSIONS}?platform=local",
    "Sessions of a platform that has most": f"{SESSIONS}?platform=telegram",
    "Sessions that are open": f"{SESSIONS}?is_open__exact=1",
    "Sessions that are open, of a bot that has few": f"{SESSIONS}?is_open__exact=1&bot=pilot",
    "Sessions in a flow": f"{SESSIONS}?flow__isempty=0",
    "Sessions in a flow, of a bot": f"{SESSIONS}?flow__isempty=0&bot=news",
    "Sessions that have expired": f"{SESSIONS}?expired=1",
    "Sessions that have expired, of a bot": f"{SESSIONS}?expired=1&bot=news",
    "Sessions that have not expired": f"{SESSIONS}?expired=0",
    "Sessions with quarantined data": f"{SESSIONS}?quarantined=1",
    "Sessions with quarantined data, of a bot": f"{SESSIONS}?quarantined=1&bot=news",
    "Sessions active within an hour": f"{SESSIONS}?active=hour",
    "Sessions active within a day": f"{SESSIONS}?active=day",
    "Sessions not active for 30 days": f"{SESSIONS}?active=older",
    "Sessions open, in a flow, active within an hour, of a bot": (
        f"{SESSIONS}?is_open__exact=1&flow__isempty=0&active=hour&bot=help"
    ),
    "Sessions in a flow, expired, quarantined (none)": (
        f"{SESSIONS}?flow__isempty=0&expired=1&quarantined=1"
    ),
    "Search of sessions: a private chat": f"{SESSIONS}?q={{user}}",
    "Search of sessions: a group": f"{SESSIONS}?q=-100{{group}}",
    "Search of sessions: a user in a group": f"{SESSIONS}?q={{user}}+-100{{group}}",
    "Search of sessions: a name that many have": f"{SESSIONS}?q=Rosa",
    "Search of sessions: a word that many said": f"{SESSIONS}?q=спасибо",
    "Search of sessions: a word that few said lately": f"{SESSIONS}?q={NEW}",
    "Search of sessions: a word that was said long ago": f"{SESSIONS}?q={OLD}",
    "Search of sessions: a word that nobody said": f"{SESSIONS}?q={NONE}",
    "Search of sessions: a word, of a bot, in a flow": (
        f"{SESSIONS}?q={NEW}&bot=news&flow__isempty=0"
    ),
    "A session": f"{SESSIONS}{{ordinary}}/change/",
    "The session with most messages": f"{SESSIONS}{BUSY}/change/",
    "Its transcript, in the middle": f"{SESSIONS}{BUSY}/change/?before={{old_message}}",
    "Its transcript, what is new (every 2 s)": f"{SESSIONS}{BUSY}/messages/?after={{last_message}}",
    "Confirming to close 100 sessions": f"{SESSIONS}act/close/?ids={{hundred}}",
    "Erasing: the question": f"{SESSIONS}{BUSY}/erase/",
    "Messages": MESSAGES,
    "Messages, a page far back": f"{MESSAGES}?p={{old_message}}",
    "Messages of the largest bot": f"{MESSAGES}?bot=shop",
    "Messages of a bot that has few, all old": f"{MESSAGES}?bot=pilot",
    "Messages that are service messages": f"{MESSAGES}?is_service__exact=1",
    "Search of messages: a chat": f"{MESSAGES}?q=-100{{group}}",
    "Search of messages: a message": f"{MESSAGES}?q={{old_message}}",
    "Search of messages: nothing found": f"{MESSAGES}?q={NONE}",
    "Updates, parked first": UPDATES,
    "Updates, a page far back": f"{UPDATES}?p={{far}}",
    "Updates that are parked": f"{UPDATES}?status__exact=parked",
    "Updates that are pending": f"{UPDATES}?status__exact=pending",
    "Updates that are held": f"{UPDATES}?status__exact=held",
    "Updates of a bot that has few": f"{UPDATES}?bot=pilot",
    "Search of updates: an update": f"{UPDATES}?q=77777",
    "Search of updates: a mailbox": f"{UPDATES}?q=shop:{{user}}:{{user}}",
    "Search of updates: nothing found": f"{UPDATES}?q={NONE}",
    "Deletions": f"{APP}messagedeletion/",
    "A deletion": f"{APP}messagedeletion/2002/change/",
    "Erasures": f"{APP}erasure/",
    "Leases": f"{APP}mailboxlease/",
    "API: sessions": "/api/sessions/",
    "API: sessions, a page far back": "/api/sessions/?cursor={api_cursor}",
    "API: sessions of a bot that has few": "/api/sessions/?bot=pilot",
    "API: sessions of a chat": "/api/sessions/?chat=-100{group}",
    "API: sessions of a user": "/api/sessions/?user={user}",
    "API: sessions, search": "/api/sessions/?search={user}",
    "API: sessions of a thread (none)": "/api/sessions/?thread=7",
    "API: sessions, expired": "/api/sessions/?expired=true",
    "API: sessions, quarantined": "/api/sessions/?quarantined=true",
    "API: sessions, in a flow, of a bot": "/api/sessions/?has_flow=true&bot=news",
    "API: sessions, updated within an hour": "/api/sessions/?updated_after={an_hour_ago}",
    "API: sessions, not updated for a year": "/api/sessions/?updated_before={a_year_ago}",
    "API: a session": "/api/sessions/{ordinary}/",
    "API: messages of a session": "/api/sessions/{ordinary}/messages/",
    "API: messages of the longest session": f"/api/sessions/{BUSY}/messages/",
    "API: messages of the longest session, searched": f"/api/sessions/{BUSY}/messages/?q={NONE}",
    "API: updates": "/api/updates/",
    "API: updates, parked, of a bot": "/api/updates/?status=parked&bot=help",
    "API: updates, pending": "/api/updates/?status=pending",
    "API: updates of a type that is rare": "/api/updates/?type=poll",
    "API: updates of a mailbox": "/api/updates/?mailbox=shop:{user}:{user}",
    "API: an update by the platform's id": "/api/updates/?update_id=77777",
    "API: deletions": "/api/deletions/",
    "API: erasures of a bot": "/api/erasures/?bot=help",
}


@dataclass(frozen=True)
class Took:
    """What a page took: queries, and milliseconds; its status where that is not 200."""

    queries: int
    median: float
    worst: float
    status: int


def addresses() -> dict[str, str]:
    """Return what stands between braces in the pages' addresses."""
    from base64 import b64encode
    from datetime import UTC, datetime, timedelta
    from urllib.parse import quote

    from botsessions.models import BotSession, BotUpdate, TrackedMessage

    last = BotSession.objects.latest("pk").pk
    said = TrackedMessage.objects.latest("pk").pk
    ordinary = last // 2 // 100 * 100 + 1  # a private chat of the largest bot
    now = datetime.now(UTC)
    return {
        "middle": f"{last // 2}",
        "far": f"1.{BotUpdate.objects.latest('pk').pk // 4}",
        "user": f"{100000000 + ordinary}",
        "group": f"{last // 2 // 50}",
        "ordinary": f"{ordinary}",
        "hundred": ",".join(f"{ordinary + n}" for n in range(100)),
        "last_message": f"{said - 10}",
        "old_message": f"{said // 4}",
        "an_hour_ago": quote((now - timedelta(hours=1)).isoformat()),
        "a_year_ago": quote((now - timedelta(days=365)).isoformat()),
        "api_cursor": quote(b64encode(f"p={last // 2}".encode()).decode()),
    }


class Counter:
    """Counts the queries of a block."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, execute: Callable[..., Any], *call: Any) -> Any:
        self.number += 1
        return execute(*call)


def took(client: Any, url: str, times: int) -> Took:
    """Ask for a page once, and then as often as it is measured."""
    from django.db import connection

    client.get(url)
    milliseconds = []
    for _ in range(times):
        counter = Counter()
        counting: AbstractContextManager[None] = connection.execute_wrapper(counter)
        with counting:
            began = time.perf_counter()
            response = client.get(url)
            if response.streaming:
                next(iter(response))
            milliseconds.append((time.perf_counter() - began) * 1000)
    median = statistics.median(milliseconds)
    return Took(counter.number, median, max(milliseconds), response.status_code)


def measured(times: int, only: str = "") -> Iterator[tuple[str, list[Took]]]:
    """Yield each page with what it took a superuser and an operator."""
    from django.contrib.auth.models import User
    from django.test import Client

    clients = []
    for name in ("root", "eve"):
        clients.append(Client(SERVER_NAME="127.0.0.1"))
        clients[-1].force_login(User.objects.get(username=name))
    known = addresses()
    for title, url in PAGES.items():
        if only.lower() in title.lower():
            yield title, [took(each, url.format(**known), times) for each in clients]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.browse", description=__doc__)
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--only", default="", help="pages whose title has this")
    options = parser.parse_args()
    django.setup()
    for title, found in measured(options.times, options.only):
        line = {"title": title, "took": [asdict(each) for each in found]}
        sys.stdout.write(f"{json.dumps(line, ensure_ascii=False)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
