"""Updates: what waits, what failed, and what is to become of it."""

from __future__ import annotations

from typing import Any

from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from botsessions.api.documented import documented
from botsessions.api.endpoint import Rows
from botsessions.api.filters import UpdateFilters
from botsessions.api.serializers import SettledSerializer, UpdateRowSerializer, UpdateSerializer
from botsessions.models import BotUpdate
from botsessions.operations import operators


class Updates(ListModelMixin, RetrieveModelMixin, Rows[BotUpdate]):
    noun = "updates"
    queryset = BotUpdate.objects.all()
    serializer_class = UpdateSerializer
    filterset_class = UpdateFilters
    long_columns = ("payload", "journal", "error")
    needs = {
        "list": "view_botupdate",
        "retrieve": "view_botupdate",
        "replay": "replay_botupdate",
        "drop": "drop_botupdate",
    }

    def get_serializer_class(self) -> Any:
        return UpdateRowSerializer if self.action == "list" else UpdateSerializer

    @documented(request=None, responses=SettledSerializer)
    @action(detail=True, methods=["post"])
    def replay(self, request: Request, pk: str) -> Response:
        """Let a parked or held update be handled, as if it had never been tried."""
        return Response({"settled": operators.replay(self.get_object())})

    @documented(request=None, responses=SettledSerializer)
    @action(detail=True, methods=["post"])
    def drop(self, request: Request, pk: str) -> Response:
        """Let a parked or held update be done, unhandled."""
        return Response({"settled": operators.drop(self.get_object())})
