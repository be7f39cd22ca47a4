"""The search for sessions: by whole ids wherever they are, by what was said a part at a time."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet
from django.http import HttpRequest

from botsessions.conf import settings
from botsessions.models import BotSession, TrackedMessage
from botsessions.operations.looking import of_chat_or_user, past

#: How many messages a search reads, the shortest text it looks for there, and how many sessions it
#: finds of each sort.
SEARCHED = 50_000
SHORTEST = 3
FOUND = 1000


class Searched(NamedTuple):
    """The sessions that were found.

    `further` is the message before which others may be found, `since` when the last that was read
    had been sent; None where all were read.
    """

    sessions: set[int]
    further: int | None = None
    since: datetime | None = None


def words_of(term: str) -> str:
    """Return what is searched for a text that somebody wrote."""
    return term.replace("\0", "").strip()


class FindsIds:
    """An admin whose search fetches ids first, so that an index serves each part of it."""

    def found(self, request: HttpRequest, term: str) -> set[int]:
        """Return the ids of the rows that a request's words find."""
        raise NotImplementedError

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = words_of(search_term)
        if not term:
            return queryset, False
        return queryset.filter(pk__in=self.found(request, term)), False


def search(term: str, upto: int | None, *, says: bool) -> Searched:
    """Return the sessions that have these ids, or in which these words were said.

    Only the latter where messages `upto` one were read before; and only by ids unless `says`.
    """
    found = set() if upto else _by_ids(term)
    if not says or len(term) < SHORTEST:
        return Searched(found)
    said = TrackedMessage.objects.using(settings.DATABASE)
    if upto:
        said = said.filter(pk__lt=upto)
    end = past(said, most=SEARCHED)
    lately = said if end is None else said.filter(pk__gt=end)
    words = Q(text__icontains=term) | Q(name__icontains=term)
    matches = list(
        lately.filter(words).order_by("-pk").values_list("session_id", "pk", "sent_at")[:FOUND]
    )
    found |= {session for session, _, _ in matches}
    if len(matches) == FOUND:
        _, last, at = matches[-1]
        return Searched(found, last, at)
    if end is None:
        return Searched(found)
    return Searched(found, end + 1, lately.order_by("pk").values_list("sent_at", flat=True).first())


def _by_ids(term: str) -> set[int]:
    rows = BotSession.objects.using(settings.DATABASE).order_by("-pk")
    for word in term.split()[:5]:
        rows = rows.filter(of_chat_or_user(word))
    return set(rows.values_list("pk", flat=True)[:FOUND])
