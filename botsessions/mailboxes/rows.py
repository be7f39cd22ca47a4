"""What passes between the mailbox's contract and its statements: each value as rows, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import cast

import msgspec

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import (
    Arrival,
    Commit,
    Effect,
    Found,
    Opening,
    Row,
    Save,
    Seen,
    Sent,
    Waiting,
)
from botsessions.mailboxes.statements import (
    LeaseRow,
    MessageRow,
    PlaceRow,
    SaveRow,
    SessionRow,
    Statements,
    UpdateRow,
)
from botsessions.mailboxes.statements.base import EXPIRED, Tuples
from botsessions.updates import Direction, Update

#: The longest name of a person that is kept, in characters.
LONGEST_NAME = 128
#: What COMMIT makes of an update.
STATUS = {
    Effect.DONE: "done",
    Effect.RETRY: "pending",
    Effect.PARKED: "parked",
    Effect.HELD: "held",
}


def parts(key: SessionKey) -> dict[str, str]:
    return msgspec.structs.asdict(key)


def lease_rows(mailboxes: Iterable[str]) -> list[LeaseRow]:
    return [LeaseRow(key) for key in sorted(set(mailboxes))]


def held_rows(leases: Iterable[tuple[str, str]]) -> list[LeaseRow]:
    return [LeaseRow(key, token) for key, token in sorted(set(leases))]


def pending_row(number: int, update: Update, mailbox: str, *, payload: bool = False) -> UpdateRow:
    row = UpdateRow(number, update.bot, update.id, update.type, mailbox, "pending")
    if payload:
        row.payload = msgspec.Raw(msgspec.json.encode(update))
    return row


def finished_row(number: int, entry: Commit, update: Update) -> UpdateRow:
    keep = entry.effect is not Effect.DONE
    row = pending_row(number, update, entry.mailbox, payload=keep)
    row.status = STATUS[entry.effect]
    # A traceback quotes whatever the handler had in hand, half an emoji included.
    row.error = entry.error.encode(errors="replace").decode()
    row.attempts, row.due_at = entry.attempts, utc(entry.due_at)
    return row


def session_row(number: int, key: SessionKey) -> SessionRow:
    return SessionRow(number, key.bot, key.chat, key.user, key.thread, key.qualifier)


def session_rows(keys: Sequence[SessionKey]) -> list[SessionRow]:
    return [session_row(number, key) for number, key in enumerate(keys)]


def opened_rows(opens: Iterable[Opening]) -> list[SessionRow]:
    """Return each session once, in order."""
    by_key = {each.key: each for each in opens}
    rows = [session_row(number, key) for number, key in enumerate(sorted(by_key))]
    for row, key in zip(rows, sorted(by_key), strict=True):
        row.expires_at = utc(by_key[key].expires_at)
    return rows


def in_row(save: Save) -> bool:
    """Is the data of a session kept in its row?"""
    return save.store is None or save.store.in_row


def save_row(number: int, save: Save) -> SaveRow:
    key = save.key
    return SaveRow(
        number,
        key.bot,
        key.chat,
        key.user,
        key.thread,
        key.qualifier,
        utc(save.expires_at),
        save.version,
        raw(save.data) if in_row(save) else None,
        raw(save.quarantined),
        raw(save.flow),
        utc(save.due_at),
        raw(save.last_flow),
    )


def raw(encoded: bytes | None) -> msgspec.Raw | None:
    return None if encoded is None else msgspec.Raw(encoded)


def session_key(row: SessionRow) -> tuple[str, ...]:
    return (row.bot, row.chat, row.user, row.thread, row.qualifier)


def seen_in(sent: Iterable[Sent]) -> Iterator[Seen]:
    for each in sent:
        yield from each.seen
        for message in each.messages if each.session is not None else ():
            yield Seen(
                cast(SessionKey, each.session),
                message,
                Direction.OUTGOING,
                each.update.id,
                each.ordinal,
                each.keep_text,
            )


def message_rows(seen: Iterable[Seen], now: datetime) -> list[MessageRow]:
    """Return the rows of messages, each once, the slices in order: their sessions are locked."""
    rows: dict[object, MessageRow] = {}
    for each in sorted(seen, key=lambda each: each.session):
        message, session = each.message, each.session
        row = MessageRow(
            session.bot,
            session.chat,
            session.user,
            session.thread,
            session.qualifier,
            message.chat.id,
            message.id,
            each.direction,
            message.kind,
            message.is_service,
            message.user.id if message.user else "",
            message.user.name[:LONGEST_NAME] if message.user and each.keep_text else "",
            message.reply_to,
            message.business,
            message.text if each.keep_text else "",
            utc(message.date) or now,
            utc(message.edited),
            each.update_id,
            each.ordinal,
        )
        name = (session, message.chat.id, message.id) if message.id else object()
        there = rows.setdefault(name, row)
        if there is not row and row.edited_at is not None:
            there.text, there.kind, there.edited_at = row.text, row.kind, row.edited_at
    return list(rows.values())


def waiting_of(rows: Tuples) -> list[Waiting]:
    return [
        Waiting(
            mailbox,
            token,
            msgspec.json.decode(payload, type=Update),
            attempts,
            msgspec.json.decode(journal) if journal else [],
            aware(due_at),
            aware(received_at),
        )
        for mailbox, token, payload, attempts, journal, due_at, received_at in rows
    ]


def utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)


def aware(moment: datetime | str | None) -> datetime | None:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def stored_row(
    id: int,
    version: int,
    is_open: bool,
    data: str | None,
    matcher: str,
    expires_at: datetime | str | None,
    flow: str | None,
) -> Row:
    if data == EXPIRED:
        return Row(id, version, False, None, is_expired=True)
    row = Row(id, version, bool(is_open), None, matcher, aware(expires_at))
    if data is not None:
        row.data = data.encode()
    if flow is not None:
        row.flow = flow.encode()
    return row


class Wanted:
    """The sessions that arrivals name, and those where they are from that are open or in a flow."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self._arrivals = arrivals
        self._places: list[PlaceRow] = []
        self._others: list[SessionRow] = []
        self._keys: list[SessionKey] = []
        for number, arrival in enumerate(arrivals):
            places = [place_row(number, arrival.update)]
            if arrival.key is not None and not is_at(arrival.key, places[0]):
                key = arrival.key
                places.append(PlaceRow(number, key.bot, key.chat, key.user, key.thread, []))
            for key in arrival.sessions:
                for place in places:
                    if is_at(key, place):
                        place.qualifiers.append(key.qualifier)
                        break
                else:
                    self._others.append(session_row(len(self._keys), key))
                    self._keys.append(key)
            said = arrival.update.message is not None or arrival.update.action is not None
            tracks = said or arrival.is_placed
            self._places += [place for place in places if tracks or place.qualifiers]

    def ask(self, statements: Statements, now: datetime) -> None:
        self._here = statements.sessions_at(self._places, now)
        self._there = statements.sessions(self._others, now)

    def found(self) -> list[Found]:
        found = [Found([None] * len(arrival.sessions)) for arrival in self._arrivals]
        for number, *row, chat, user, thread, qualifier in self._here:
            arrival, each = self._arrivals[number], found[number]
            key = SessionKey(arrival.update.bot, chat, user, thread, qualifier)
            stored = stored_row(*row)
            for position, named in enumerate(arrival.sessions):
                if named == key:
                    each.named[position] = stored
            if stored.is_open and (key, stored.matcher) not in each.open:
                each.open.append((key, stored.matcher))
            if stored.flow is not None and key not in dict(each.flows):
                each.flows.append((key, stored))
        others = {self._keys[number]: stored_row(*row) for number, *row in self._there}
        for arrival, each in zip(self._arrivals, found, strict=True):
            if others:
                each.named = [
                    here or others.get(key)
                    for key, here in zip(arrival.sessions, each.named, strict=True)
                ]
            each.open.sort()
        return found


def place_row(number: int, update: Update) -> PlaceRow:
    user = update.user.id if update.user else ""
    return PlaceRow(number, update.bot, update.conversation, user, update.thread, [])


def is_at(key: SessionKey, place: PlaceRow) -> bool:
    return (
        key.bot == place.bot
        and (bool(key.chat or key.user) or not (place.chat or place.user))
        and key.chat in (place.chat, "")
        and key.user in (place.user, "")
        and key.thread in (place.thread, "")
    )
