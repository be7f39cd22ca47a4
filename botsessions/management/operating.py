"""The subcommands of `manage.py bots` that keep an installation clean."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.core.management import CommandError
from django.utils import timezone
from django.utils.dateparse import parse_datetime, parse_duration

from botsessions import operations
from botsessions.conf import settings
from botsessions.models import MessageDeletion
from botsessions.operations.heartbeat import beat
from botsessions.operations.selection import Selection

Options = Mapping[str, Any]
Write = Callable[[str], object]
#: Adds a subcommand: its parser, name, function and description.
Add = Callable[[Any, str, Callable[[Options], None], str], argparse.ArgumentParser]

#: How many deletions are listed.
LISTED = 20


class Operating:
    """The subcommands; each is a method that takes the options."""

    def __init__(self, write: Write) -> None:
        self.write = write

    def add_to(self, verbs: Any, add: Add) -> None:
        """Add them to those of the command."""
        add(
            verbs,
            "sweep",
            self.sweep,
            "End sessions that have expired: their data, messages and rows are deleted. Celery "
            "beat does that every minute.",
        )
        add(
            verbs,
            "deadlines",
            self.deadlines,
            "Let waiters and conversations know that their deadlines have passed. A running server "
            "does that at once, Celery beat every few seconds.",
        )
        add(
            verbs,
            "recover",
            self.recover,
            "Handle, here and now, acknowledged updates whose process was killed. A running server "
            "and Celery beat do that every few seconds.",
        )
        add(
            verbs,
            "prune",
            self.prune,
            "Delete or anonymise what has been kept for as long as RETENTION says. Celery beat "
            "does that every hour.",
        )
        self._add_delete_messages(
            add(
                verbs,
                "delete-messages",
                self.delete_messages,
                "Delete the messages of a bot's sessions, on the platform and here, and show how "
                "far it is. Ctrl-C leaves the rest to Celery. Without a bot: work off the "
                "deletions that are due, as Celery beat does.",
            )
        )
        verb = add(verbs, "deletions", self.deletions, "List the last deletions, or cancel one.")
        verb.add_argument("--cancel", type=int, metavar="ID", help="ask for no more of this one")
        verb = add(
            verbs,
            "erase",
            self.erase,
            "Erase what is stored of a user or a chat: sessions, messages, flows, updates, caches. "
            "A receipt stays.",
        )
        _add_subject(verb)
        verb.add_argument(
            "--delete-messages",
            action="store_true",
            help="ask the platform to delete the messages, too",
        )
        verb.add_argument(
            "--wait",
            type=float,
            default=30.0,
            help="seconds to wait for handlers in flight (default: %(default)g); then Celery "
            "goes on",
        )
        verb.add_argument("--no-input", action="store_true", help="do not ask whether you mean it")
        verb = add(
            verbs,
            "export",
            self.export,
            "Write what is stored of a user or a chat as JSON lines: the same that is erased.",
        )
        _add_subject(verb)
        verb = add(
            verbs,
            "migrate-data",
            self.migrate_data,
            "Bring stored data to the version of its type, through every step of @migrates. "
            "Reading does the same one session at a time.",
        )
        verb.add_argument("--bot", help="the alias of one bot (default: all)")
        verb.add_argument("--dry-run", action="store_true", help="only count; write nothing")

    # The subcommands

    def recover(self, options: Options) -> None:
        self.write(f"Mailboxes taken up: {operations.recover()}")
        beat("recover")

    def sweep(self, options: Options) -> None:
        self.write(f"Sessions ended: {operations.sweep()}")
        beat("sweep")

    def deadlines(self, options: Options) -> None:
        self.write(f"Deadlines that had passed: {operations.deadlines()}")
        beat("deadlines")

    def prune(self, options: Options) -> None:
        pruned = operations.prune()
        for name, number in sorted(pruned.items()):
            self.write(f"{name.replace('_', ' ').capitalize()}: {number:,}")
        if not pruned:
            self.write("Nothing is older than it is to be.")
        beat("prune")

    def delete_messages(self, options: Options) -> None:
        if options["bot"] is None:
            self.write(f"Messages that came to an outcome: {operations.delete_messages():,}")
            beat("delete_messages")
            return
        selection = _selection(options)
        deletion = operations.begin_deletion(
            selection, through=options["through"] or "", requested_by="manage.py"
        )
        self.write(f"Deletion {deletion.pk} has begun.")
        if options["no_wait"]:
            return
        self._follow(deletion)

    def deletions(self, options: Options) -> None:
        rows = MessageDeletion.objects.using(settings.DATABASE)
        if options["cancel"] is not None:
            deletion = rows.filter(pk=options["cancel"]).first()
            if deletion is None:
                raise CommandError(f"There is no deletion {options['cancel']}.")
            if not operations.cancel_deletion(deletion):
                raise CommandError(f"Deletion {deletion.pk} is over: it is {deletion.status}.")
            self.write(f"Deletion {deletion.pk} is cancelled.")
            return
        found = list(rows.order_by("-pk")[:LISTED])
        for each in found:
            self.write(f"{each.pk}  {each.bot}  {each.created_at:%Y-%m-%d %H:%M}  {said(each)}")
        if not found:
            self.write("There are no deletions.")

    def erase(self, options: Options) -> None:
        who = f"user {options['user']}" if options["user"] else f"chat {options['chat']}"
        if not options["no_input"]:
            try:
                answer = input(
                    f"Erase everything that bot '{options['bot']}' has of {who}? It cannot be "
                    "undone. Type yes: "
                )
            except EOFError:
                raise CommandError("Nobody is there to say yes: give --no-input.") from None
            if answer.strip().lower() != "yes":
                raise CommandError("Nothing was erased.")
        erasure = operations.erase(
            options["bot"],
            user=options["user"] or "",
            chat=options["chat"] or "",
            delete_messages=options["delete_messages"],
            requested_by="manage.py",
            wait=options["wait"],
        )
        if erasure.deletion is not None and erasure.selection is None:
            self._follow(erasure.deletion)
            operations.continue_erasure(erasure, options["wait"])
        for name, number in sorted(erasure.counts.items()):
            self.write(f"{name.replace('_', ' ').capitalize()}: {number}")
        if erasure.finished_at is None:
            self.write(f"Somebody works on them still: Celery goes on with erasure {erasure.pk}.")
        else:
            self.write(f"Erased. The receipt is erasure {erasure.pk}.")

    def export(self, options: Options) -> None:
        lines = operations.export(
            options["bot"], user=options["user"] or "", chat=options["chat"] or ""
        )
        for line in lines:
            self.write(line)

    def migrate_data(self, options: Options) -> None:
        migration = operations.migrate_data(dry_run=options["dry_run"], bot=options["bot"])
        for line in migration.lines():
            self.write(line)

    def _follow(self, deletion: MessageDeletion) -> None:
        """Work on a deletion and show how far it is, until it is over."""
        shown = ""

        def show() -> None:
            nonlocal shown
            deletion.refresh_from_db()
            if (line := said(deletion)) != shown:
                shown = line
                self.write(line)

        try:
            operations.follow_deletion(deletion, show)
        except KeyboardInterrupt:
            self.write(f"Celery goes on with it; `bots deletions --cancel {deletion.pk}` stops it.")

    def _add_delete_messages(self, verb: argparse.ArgumentParser) -> None:
        verb.add_argument("bot", nargs="?", help="the alias of the bot whose sessions are meant")
        verb.add_argument("--all", action="store_true", help="the messages of all its sessions")
        verb.add_argument("--chat", help="the chat's part of the sessions' keys")
        verb.add_argument("--user", help="the user's part")
        verb.add_argument("--qualifier", help="the qualifier, '' for those without one")
        verb.add_argument(
            "--direction", choices=["incoming", "outgoing"], help="only what was said in that one"
        )
        verb.add_argument(
            "--older-than",
            metavar="AGE",
            help="only what is older than so long ('2 12:00:00' is two and a half days), or than "
            "a moment ('2026-11-01 00:00')",
        )
        verb.add_argument("--through", metavar="BOT", help="let another bot delete them")
        verb.add_argument(
            "--no-wait", action="store_true", help="leave it to Celery and return at once"
        )


def said(deletion: MessageDeletion) -> str:
    """Return how far a deletion is, in a line."""
    outcomes = ", ".join(
        f"{number:,} {name.replace('_', ' ')}"
        for name, number in deletion.outcomes.items()
        if number
    )
    progress = f"{deletion.get_status_display()}: {deletion.done:,} of {deletion.total:,}"
    return f"{progress} ({outcomes})" if outcomes else progress


def _add_subject(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("bot", help='the bot\'s alias in BOTSESSIONS["BOTS"]')
    subject = verb.add_mutually_exclusive_group(required=True)
    subject.add_argument("--user", help="the platform's id of a user")
    subject.add_argument("--chat", help="the platform's id of a chat")


def _selection(options: Options) -> Selection:
    """Return which messages are meant. Raises `CommandError` where nothing narrows them down."""
    parts = {name: options[name] for name in ("chat", "user", "qualifier", "direction")}
    before = None if options["older_than"] is None else _moment(options["older_than"])
    narrowed = before is not None or any(value is not None for value in parts.values())
    if narrowed == options["all"]:
        raise CommandError(
            "Say which messages are meant: --chat, --user, --qualifier, --direction, --older-than; "
            "or --all and none of these."
        )
    return Selection(options["bot"], before=before, **parts)


def _moment(text: str) -> datetime:
    try:
        moment, age = parse_datetime(text), parse_duration(text)
    except ValueError:
        moment = age = None
    if text.strip().isdigit():
        age = None  # of seconds, which hardly anybody means
    if moment is not None:
        return moment if timezone.is_aware(moment) else timezone.make_aware(moment)
    if age is not None and age > timedelta(0):
        return timezone.now() - age
    raise CommandError(
        f"{text!r} is no age, as '30 00:00:00' for thirty days or '12:00:00', and no moment, as "
        "'2026-11-01 00:00'."
    )
