"""Rows of a large table, newest first, a page at a time, at a cost that has a bound.

A page goes on from an id, so that the last costs what the first does. Where no index finds what is
looked for, a page ends with what it has found among so many rows, and the next goes on there: all
of it is reached, and no page reads the table.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

from django.db.models import Model, Q, QuerySet

M = TypeVar("M", bound=Model)

#: How many rows are looked at for a page; of a session, whose messages stand far apart, fewer.
LOOKED = 50_000
LOOKED_APART = 10_000
#: How many rows are few: so many are fetched by their ids.
FEW = 1000


class Among(NamedTuple):
    """The rows among which others are looked for: an index has them in the order of ids."""

    rows: QuerySet[Any]
    most: int


class Found(NamedTuple, Generic[M]):
    """A page of rows, newest first, and the id from which to go on; None where there are no others.

    `is_cut` tells that the page ends because enough was looked at, and not because it is full.
    """

    rows: list[M]
    further: int | None
    is_cut: bool


def newest(
    rows: QuerySet[M], size: int, *, before: int | None = None, among: Among | None = None
) -> Found[M]:
    """Return the newest of these rows, or the newest before an id.

    `among` is what is looked at, and not all of it; without it an index finds `rows`.
    """
    end = None if among is None else past(among.rows, before=before, most=among.most)
    if before is not None:
        rows = rows.filter(pk__lt=before)
    if end is not None:
        rows = rows.filter(pk__gt=end)
    found = list(rows.order_by(*_order(rows, "-"))[: size + 1])
    if len(found) > size:
        return Found(found[:size], found[size - 1].pk, False)
    return Found(found, None if end is None else end + 1, end is not None)


def next_newer(rows: QuerySet[M], size: int, *, after: int, among: Among | None = None) -> Found[M]:
    """Return the page that comes before the row with an id, as `newest` does."""
    end = None if among is None else past(among.rows, after=after, most=among.most)
    rows = rows.filter(pk__gt=after)
    if end is not None:
        rows = rows.filter(pk__lt=end)
    found = list(rows.order_by(*_order(rows, ""))[: size + 1])
    if len(found) > size:
        return Found(found[:size][::-1], found[size - 1].pk, False)
    return Found(found[::-1], None if end is None else end - 1, end is not None)


def past(
    rows: QuerySet[Any], *, before: int | None = None, after: int | None = None, most: int
) -> int | None:
    """Return the id of the first row after the `most` that are looked at; None where there is none.

    That is from the newest to older ones, or from those after an id to newer ones.
    """
    if before is not None:
        rows = rows.filter(pk__lt=before)
    if after is not None:
        rows = rows.filter(pk__gt=after)
    ids = rows.order_by(*_order(rows, "-" if after is None else "")).values_list("pk", flat=True)
    return next(iter(ids[most : most + 1]), None)


def slice_of(rows: QuerySet[M], session: int) -> QuerySet[M]:
    """Return the messages of a session, to be read in the order of their ids.

    They are asked for as a range of sessions, and in the order of sessions first: only one index
    has that. In the order of ids alone a planner may look through everybody's messages for those of
    a session that has many.
    """
    rows = rows.filter(session_id__gte=session, session_id__lte=session)
    return rows.order_by("session_id", "pk")


def _order(rows: QuerySet[Any], sign: str) -> tuple[str, ...]:
    """Return the order of ids, within what `slice_of` asked for."""
    is_slice = rows.query.order_by[:1] == ("session_id",)
    return (f"{sign}session_id", f"{sign}pk") if is_slice else (f"{sign}pk",)


def of_status(updates: QuerySet[Any], status: str) -> QuerySet[Any] | None:
    """Return the updates of a status, in the order of its index; None where no index has them."""
    order = {
        "pending": ("mailbox", "-attempts", "pk"),
        "held": ("mailbox", "pk"),
        "parked": ("bot", "pk"),
    }.get(status)
    return None if order is None else updates.filter(status=status).order_by(*order)


def few(rows: QuerySet[Any]) -> list[int] | None:
    """Return the ids of rows that an index finds, in its order; None where they are not few."""
    found = list(rows.values_list("pk", flat=True)[: FEW + 1])
    return found if len(found) <= FEW else None


def ids_of(*queries: QuerySet[Any]) -> set[int]:
    """Return the ids that these find, of each the first few."""
    return {pk for each in queries for pk in each.values_list("pk", flat=True)[:FEW]}


def lately(rows: QuerySet[M]) -> QuerySet[M]:
    """Return the newest rows of a table, as many as are looked at for a page."""
    return rows.filter(pk__gt=past(rows, most=LOOKED) or 0)


def of_chat_or_user(id: str) -> Q:
    """Return the condition that a session is of a chat or a user with this id."""
    # The index of users has none for sessions without one; see BotSession.
    return Q(chat=id) | Q(user=id, user__gt="")
