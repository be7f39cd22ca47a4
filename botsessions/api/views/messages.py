"""The messages of a session: its slice, and what is said there in the bot's place."""

from __future__ import annotations

from typing import Any, cast

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from botsessions.api import examples, scope
from botsessions.api.documented import documented
from botsessions.api.endpoint import Rows, find
from botsessions.api.filters import MessageFilters
from botsessions.api.serializers import MessageSerializer, SendSerializer, SentSerializer
from botsessions.conf import settings
from botsessions.models import BotSession, TrackedMessage
from botsessions.operations import operators
from botsessions.operations.looking import slice_of

SESSION = OpenApiParameter("session", int, OpenApiParameter.PATH)


class SessionMessages(ListModelMixin, Rows[TrackedMessage]):
    noun = "messages"
    queryset = TrackedMessage.objects.all()
    serializer_class = MessageSerializer
    filterset_class = MessageFilters
    needs = {"list": "view_trackedmessage", "create": "send_botsession"}

    def get_queryset(self) -> QuerySet[TrackedMessage]:
        rows = TrackedMessage.objects.using(settings.DATABASE)
        return slice_of(rows, self._session().pk)

    def _session(self) -> BotSession:
        rows = scope.within(self.request, BotSession.objects.using(settings.DATABASE).all())
        return find(rows.defer("data", "quarantined", "flow", "last_flow"), self.kwargs["session"])

    @documented(parameters=[SESSION], examples=[examples.MESSAGE])
    def list(self, request: Request, **place: Any) -> Response:
        """List the messages of a session's slice, newest first."""
        return cast(Response, super().list(request))

    @documented(
        parameters=[SESSION],
        request=SendSerializer,
        responses={201: SentSerializer},
        examples=[examples.SEND],
    )
    def create(self, request: Request, session: str) -> Response:
        """Send a message as the bot, which opens the session.

        Whoever asks twice sends twice: after a 502 `platform_unavailable` look first.
        """
        row = self._session()
        bot = scope.working(row.bot)
        body = SendSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        answer = operators.send(row, body.validated_data["text"])
        ids = [each.id for each in bot.platform.messages(answer, row.chat)]
        sent = TrackedMessage.objects.using(settings.DATABASE).filter(
            session=row.pk, message_id__in=ids, direction=TrackedMessage.Direction.OUTGOING
        )
        return Response(SentSerializer({"messages": sent.order_by("pk")}).data, status=201)
