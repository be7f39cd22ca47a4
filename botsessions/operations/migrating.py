"""Stored data of older versions, brought to the versions of today's types."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from botsessions.bots import Bot, bots
from botsessions.conf import settings
from botsessions.contents import fill
from botsessions.data import Misfit, decoder
from botsessions.flows.state import Slot
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Commit, Effect, Outcome, Row, Save
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotSession
from botsessions.operations.declared import Target, declared_in, target_of
from botsessions.operations.known import known_bots
from botsessions.operations.taking import mailbox_name, taken
from botsessions.stores.database import KEY, live
from botsessions.versions import as_stored, name_of, stored_version, upgrade, versions_of

log = logging.getLogger("botsessions.operations")

#: How many sessions are read, and how many mailboxes taken, at a time.
BATCH = 100
#: Seconds before each further attempt at the sessions that somebody was working on.
PAUSES = (0.2, 1.0, 3.0)


class Counts(msgspec.Struct):
    """What was found of the data of one type."""

    #: It is of the type's version.
    current: int = 0
    #: It was brought to that version; on a dry run it could be.
    migrated: int = 0
    #: It is of a later version: newer code has written it.
    newer: int = 0
    #: A step failed, or what came out does not fit or is too large. It is as it was.
    misfit: int = 0
    #: Somebody was working on it, each time. It is as it was.
    busy: int = 0
    #: Whether it is of this type cannot be told: it is migrated when it is read.
    unclear: int = 0


class Migration(msgspec.Struct):
    """What `migrate_data` did, by the aliases of the bots and the names of the types."""

    is_dry: bool = False
    counts: dict[tuple[str, str], Counts] = {}
    versions: dict[tuple[str, str], int] = {}

    def lines(self) -> Iterator[str]:
        """Yield it as text, a line for each type of each bot."""
        if not self.counts:
            yield "No handler or flow declares a session type with a version."
        for (bot, name), counts in self.counts.items():
            found = msgspec.structs.asdict(counts)
            if self.is_dry:
                found = {"to migrate" if k == "migrated" else k: v for k, v in found.items()}
            said = ", ".join(f"{number:,} {what}" for what, number in found.items() if number)
            version = self.versions[bot, name]
            yield f"{bot}: {name}, version {version}: {said or 'nothing stored'}"


def migrate_data(
    *,
    dry_run: bool = False,
    bot: str | None = None,
    progress: Callable[[Migration], object] | None = None,
) -> Migration:
    """Bring stored data to the versions of the types that handlers and flows declare for it.

    Each session has its turn in its mailbox, as with an update, and keeps its expiry and its flow.
    What is being worked on is tried again, after all others. Data that cannot be migrated is left
    as it is, for the session's `OnMisfit` when it is read. A dry run only looks. It may be called
    while bots run, killed at any moment, and called again. `progress` is told after each batch.
    Raises `Unavailable` where a store is away, and `KeyError` for a bot that there is not.
    """
    known = known_bots() if bot is None else {bot: bots[bot]}
    done, mailbox = Migration(dry_run), DatabaseMailbox()
    left: list[Target] = []
    for each in known.values():
        for batch in _batches(each, done):
            left += _look(mailbox, batch, known, done)
            if progress is not None:
                progress(done)
    for pause in PAUSES:
        if not left:
            break
        time.sleep(pause)
        again, left = left, []
        for first in range(0, len(again), BATCH):
            left += _migrate(mailbox, again[first : first + BATCH], known, done)
    for target in left:
        done.counts[target.name].busy += 1
    return done


def _batches(bot: Bot, done: Migration) -> Iterator[list[Target]]:
    """Yield the bot's sessions of types with versions, in the order of their rows."""
    declared = [] if bot.store is None else list(declared_in(bot.router))
    versioned = {spec.type for spec in declared if versions_of(spec.type).current > 1}
    for type_ in versioned:
        name = bot.alias, name_of(type_)
        done.counts[name], done.versions[name] = Counts(), versions_of(type_).current
    rows = BotSession.objects.using(settings.DATABASE).filter(live(), bot=bot.alias)
    if bot.store is not None and bot.store.in_row:
        rows = rows.filter(data__isnull=False)
    after = 0
    while versioned:
        batch = list(rows.filter(id__gt=after).order_by("id").values_list("id", *KEY)[:BATCH])
        if not batch:
            return
        after = batch[-1][0]
        found = (target_of(bot, declared, SessionKey(*parts)) for _, *parts in batch)
        yield [each for each in found if each is not None]


def _look(
    mailbox: DatabaseMailbox, batch: Sequence[Target], known: Mapping[str, Bot], done: Migration
) -> list[Target]:
    """Count these, and migrate those that need it; return those that somebody works on."""
    old = []
    for target, row in _read(mailbox, batch):
        verdict, _ = _judge(target, row)
        if verdict == "migrated" and not done.is_dry:
            old.append(target)
        else:
            _count(done, target, verdict)
    return _migrate(mailbox, old, known, done) if old else []


def _migrate(
    mailbox: DatabaseMailbox, batch: Sequence[Target], known: Mapping[str, Bot], done: Migration
) -> list[Target]:
    """Migrate these in their mailboxes; return those of mailboxes that are not free."""
    places: dict[str, list[Target]] = {}
    for target in batch:
        places.setdefault(mailbox_name(target.key, known), []).append(target)
    with taken(places, mailbox) as hold:
        left = [target for name in places if name not in hold for target in places[name]]
        # Nobody changes them now but handlers of other mailboxes, who are told by the version.
        ours = [target for name in places if name in hold for target in places[name]]
        saves: dict[str, list[tuple[Target, Save]]] = {}
        for target, row in _read(mailbox, ours):
            verdict, data = _judge(target, row)
            if row is None or data is None:
                _count(done, target, verdict)
            else:
                name = mailbox_name(target.key, known)
                saves.setdefault(name, []).append((target, _save(target, row, data)))
        commits = [
            # Given back at once: `taken` has whatever arrived meanwhile handled.
            Commit(name, hold.token, Effect.NOTHING, saves=[save for _, save in each], go_on=False)
            for name, each in saves.items()
        ]
        outcomes = mailbox.commit(commits).outcomes if commits else []
        for saved, outcome in zip(saves.values(), outcomes, strict=True):
            targets = [target for target, _ in saved]
            if outcome is Outcome.COMMITTED:
                for target in targets:
                    _count(done, target, "migrated")
            else:
                left += targets
    return left


def _read(
    mailbox: DatabaseMailbox, targets: Sequence[Target]
) -> Iterator[tuple[Target, Row | None]]:
    """Yield these with their rows and what their stores hold, in one query."""
    if not targets:
        return
    [rows] = mailbox.load([[target.key for target in targets]])
    found = list(zip(targets, rows, strict=True))
    for store in {id(each.bot.store): each.bot.store for each in targets}.values():
        fill(store, ((each.key, row) for each, row in found if each.bot.store is store))
    yield from found


def _judge(target: Target, row: Row | None) -> tuple[str, bytes | None]:
    """Return where stored data is to be counted, and what is to be stored in its place."""
    if row is None or row.data is None:
        return "", None
    stored, known = stored_version(row.data), versions_of(target.type).current
    if stored < target.sure_from:
        return "unclear", None
    if stored >= known:
        return ("newer" if stored > known else "current"), None
    try:
        upgraded = upgrade(target.type, row.data)
        decoder(target.type)(upgraded)
        # Not what it encodes to as that type: what only has defaults so far goes on to have them.
        data = as_stored(target.type, upgraded)
        if len(data) > settings.MAX_DATA_BYTES:
            raise Misfit(f"{len(data):,} bytes are more than MAX_DATA_BYTES")
    except (Misfit, ValueError, RecursionError) as error:
        log.warning("The data of session %s is not migrated: %s", target.key, error)
        return "misfit", None
    return "migrated", data


def _save(target: Target, row: Row, data: bytes) -> Save:
    """Return what saves migrated data, and leaves everything else as it is."""
    flow, due_at, last_flow = Slot(row).saved()
    return Save(
        target.key,
        row.version,
        data,
        row.expires_at,
        store=target.bot.store,
        before=row.data,
        flow=flow,
        due_at=due_at,
        last_flow=last_flow,
    )


def _count(done: Migration, target: Target, verdict: str) -> None:
    if verdict:
        counts = done.counts[target.name]
        setattr(counts, verdict, getattr(counts, verdict) + 1)
