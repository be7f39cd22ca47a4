"""`manage.py bots`: what is configured, webhooks, polling and a chat; `operating` has the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from asgiref.sync import async_to_sync
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management import BaseCommand, CommandError, CommandParser

from botsessions.bots import Bot, bots
from botsessions.conf import settings
from botsessions.exceptions import BotsessionsError, PlatformError
from botsessions.management import console, foreground, polling, webhooks
from botsessions.management.operating import Operating

Options = Mapping[str, Any]


class Command(BaseCommand):
    """The subcommands; each is a method that takes the options."""

    help = (
        "Lists the bots, sets their webhooks, polls for their updates, chats with them; sweeps, "
        "prunes, deletes, erases, exports and migrates what is stored."
    )
    stealth_options = ("run", "stdin")

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
        _add(
            verbs,
            "list",
            self.list,
            "Show each bot's alias, platform, key strategy, store and webhook path.",
        )

        webhook = verbs.add_parser(
            "webhook",
            help="Set, show or delete a bot's webhook.",
            description="Set, show or delete the address to which the platform delivers a bot's "
            "updates. For platforms that have to be told it, as Telegram.",
        )
        actions = webhook.add_subparsers(title="actions", metavar="ACTION", required=True)
        action = _add(
            actions,
            "set",
            self.set_webhook,
            "Have every type of update delivered to this project, with the bot's secret.",
        )
        _add_bot(action)
        action.add_argument(
            "--url",
            help="where this project is reached, as https://bots.example.org; the path is added. "
            'Default: "WEBHOOK_URL" in BOTSESSIONS.',
        )
        _add_drop_pending(action)
        action = _add(
            actions, "info", self.show_webhook, "Show what the platform says of the webhook."
        )
        _add_bot(action)
        action = _add(
            actions,
            "delete",
            self.delete_webhook,
            "Stop deliveries; updates wait at the platform until a webhook is set or polled for.",
        )
        _add_bot(action)
        _add_drop_pending(action)

        verb = _add(
            verbs,
            "poll",
            self.poll,
            "Fetch a bot's updates and handle them here until Ctrl-C, for a machine that has no "
            "public address. Updates are fetched again unless they are committed or stored, and a "
            "bot with a webhook is refused.",
        )
        _add_bot(verb)

        verb = _add(
            verbs,
            "chat",
            self.chat,
            "Chat with a bot on LocalPlatform: lines are said, and what the bot says, edits and "
            "deletes is shown. Ctrl-D ends; with piped input every line is answered first.",
        )
        _add_bot(verb)
        verb.add_argument("--user", default="ann", help="who you are (default: %(default)s)")
        verb.add_argument(
            "--chat",
            choices=["private", "group"],
            default="private",
            help="where you talk: alone with the bot, or in everybody's group "
            "(default: %(default)s)",
        )

        verb = _add(
            verbs,
            "token",
            self.make_token,
            "Make a token for the REST API, which acts as a user, and show its key this once. For "
            "projects with botsessions.api.",
        )
        verb.add_argument("user", help="the name of the user")
        verb.add_argument(
            "--bot",
            action="append",
            default=[],
            metavar="ALIAS",
            help="a bot that it is for; may be given several times (default: all)",
        )
        verb.add_argument(
            "--expires", type=float, metavar="DAYS", help="after so many days (default: never)"
        )

        # Looked up when it writes: whoever calls the command may give it another.
        Operating(lambda line: self.stdout.write(line)).add_to(verbs, _add)

    def handle(self, *args: Any, **options: Any) -> None:
        run: Callable[[Options], None] = options["run"]
        try:
            run(options)
        except PlatformError as error:
            raise CommandError(f"Bot '{options['bot']}': {error}.") from error
        except (BotsessionsError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error

    # The subcommands

    def list(self, options: Options) -> None:
        if not settings.BOTS:
            self.stdout.write('No bots are configured: BOTSESSIONS["BOTS"] is empty.')
            return
        rows = [("BOT", "PLATFORM", "KEY", "STORE", "WEBHOOK"), *map(_row, settings.BOTS)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            self.stdout.write("  ".join(cells).rstrip())

    def set_webhook(self, options: Options) -> None:
        bot = _find(options)
        platform = webhooks.require(bot)
        url = webhooks.address(bot.alias, options["url"])
        extra = {"drop_pending_updates": True} if options["drop_pending"] else {}
        async_to_sync(platform.set_webhook)(url, **extra)
        self.stdout.write(f"The updates of bot '{bot.alias}' are delivered to {url}.")

    def show_webhook(self, options: Options) -> None:
        bot = _find(options)
        info = async_to_sync(webhooks.require(bot).webhook_info)()
        for line in webhooks.described(bot, info):
            self.stdout.write(line)

    def delete_webhook(self, options: Options) -> None:
        bot = _find(options)
        platform = webhooks.require(bot)
        async_to_sync(platform.delete_webhook)(drop_pending=options["drop_pending"])
        self.stdout.write(f"The webhook of bot '{bot.alias}' is deleted.")

    def poll(self, options: Options) -> None:
        detail = self.stdout.write if options["verbosity"] > 1 else str
        poller = polling.Poller(_find(options), self.stdout.write, detail)
        foreground.run(poller.run, self._tell_stopping)

    def chat(self, options: Options) -> None:
        chat = console.Console(_find(options), options["user"], options["chat"], self.stdout.write)
        stdin = options.get("stdin") or sys.stdin
        foreground.run(partial(chat.run, stdin), self._tell_stopping)

    def make_token(self, options: Options) -> None:
        if not apps.is_installed("botsessions.api"):
            raise CommandError("botsessions.api is not in INSTALLED_APPS.")
        from botsessions.api.tokens import issue_for  # only where REST framework is installed

        try:
            key = issue_for(options["user"], bots=options["bot"], days=options["expires"])
        except ValueError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(key)

    def _tell_stopping(self) -> None:
        self.stdout.write(
            f"Stopping: what is being handled has {settings.SHUTDOWN_TIMEOUT:g} s to finish. "
            "Ctrl-C once more ends it now."
        )


def _add(
    verbs: Any, name: str, run: Callable[[Options], None], description: str
) -> argparse.ArgumentParser:
    """Add a subcommand, which takes those of Django's options too that people put at the end."""
    summary = description.partition(":")[0].partition(". ")[0].rstrip(".")
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=f"{summary}.", description=description
    )
    verb.set_defaults(run=run)
    hidden: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    verb.add_argument("-v", "--verbosity", type=int, choices=[0, 1, 2, 3], **hidden)
    verb.add_argument("--traceback", action="store_true", **hidden)
    verb.add_argument("--settings", **hidden)
    verb.add_argument("--pythonpath", **hidden)
    return verb


def _add_bot(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("bot", help='the bot\'s alias in BOTSESSIONS["BOTS"]')


def _add_drop_pending(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--drop-pending",
        action="store_true",
        help="have the platform throw away the updates that wait there",
    )


def _find(options: Options) -> Bot:
    alias = options["bot"]
    if alias not in settings.BOTS:
        names = ", ".join(settings.BOTS) or "none"
        raise CommandError(f"There is no bot '{alias}' in BOTSESSIONS['BOTS']: there is {names}.")
    return bots[alias]


def _row(alias: str) -> tuple[str, ...]:
    """Return what `list` shows of a bot; one that cannot be made is shown as it is configured."""
    configured = settings.BOTS[alias]
    try:
        bot = bots[alias]
        platform, store = bot.platform.name, bot.store.alias if bot.store else "-"
    except ImproperlyConfigured:
        platform, store = "(wrong settings: see manage.py check)", "?"
    key = configured.get("KEY", "chat_user")
    name = key if isinstance(key, str) else f"{key.__module__}.{key.__qualname__}"
    return alias, platform, name, store, webhooks.path(alias) or "-"
