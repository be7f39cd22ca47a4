"""Sessions: to be found, read, and changed in their turn."""

from __future__ import annotations

from typing import Any, cast

from django.db.models import ExpressionWrapper, Q
from django.db.models.fields import BooleanField
from django.db.models.fields.json import KT
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiExample, OpenApiParameter
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from botsessions.api import examples, scope
from botsessions.api.documented import documented
from botsessions.api.endpoint import Rows, who
from botsessions.api.filters import SessionFilters
from botsessions.api.preconditions import etag, expected_version
from botsessions.api.problems import PreconditionFailed
from botsessions.api.serializers import (
    DataSerializer,
    DeletionSerializer,
    EndedSerializer,
    ForgottenSerializer,
    PausedSerializer,
    ResumedSerializer,
    ResumeSerializer,
    SessionRowSerializer,
    SessionSerializer,
)
from botsessions.exceptions import SessionConflict
from botsessions.models import BotSession
from botsessions.operations import operators

ETAG = OpenApiParameter(
    "ETag", str, OpenApiParameter.HEADER, description=_("The version."), response=[200]
)
IF_MATCH = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    required=True,
    description=_("The `ETag` of what was read."),
    examples=[OpenApiExample("A version", '"7"')],
)


class Sessions(ListModelMixin, Rows[BotSession]):
    """What is done to a session takes its turn in the mailbox, as what is said there does."""

    noun = "sessions"
    queryset = BotSession.objects.annotate(
        flow_name=KT("flow__name"),
        flow_before=KT("flow__before__name"),
        flow_operator=KT("flow__operator"),
        is_quarantined=ExpressionWrapper(Q(quarantined__isnull=False), output_field=BooleanField()),
    ).defer("flow")
    serializer_class = SessionSerializer
    filterset_class = SessionFilters
    long_columns = ("data", "quarantined", "flow", "last_flow")
    needs = {
        "list": "view_botsession",
        "retrieve": "view_botsession",
        "partial_update": "change_botsession",
        "destroy": "delete_botsession",
        "clear": "clear_botsession",
        "forget": "forget_botsession",
        "close": "close_botsession",
        "reset": "reset_botsession",
        "end_flow": "end_flow_botsession",
        "pause": "take_over_botsession",
        "resume": "take_over_botsession",
    }

    def get_serializer_class(self) -> Any:
        return SessionRowSerializer if self.action == "list" else SessionSerializer

    def _target(self) -> BotSession:
        """Return the session that is to be changed."""
        row = self.get_object()
        scope.working(row.bot)
        return row

    def _shown(self) -> Response:
        row = self.get_object()
        return Response(SessionSerializer(row).data, headers={"ETag": etag(row)})

    @documented(examples=[examples.SESSION_ROW])
    def list(self, request: Request) -> Response:
        """List sessions, newest first."""
        return cast(Response, super().list(request))

    @documented(parameters=[ETAG], examples=[examples.SESSION])
    def retrieve(self, request: Request, pk: str) -> Response:
        """Read a session with its data. `ETag` is its version."""
        return self._shown()

    @documented(
        parameters=[ETAG, IF_MATCH],
        request=DataSerializer,
        examples=[examples.DATA, examples.SESSION],
    )
    def partial_update(self, request: Request, pk: str) -> Response:
        """Put other data into a session, where it is still of the version in `If-Match`.

        The data is replaced as a whole, and has to fit the type that the bot's code declares.
        """
        row = self._target()
        version = expected_version(request, row)
        body = DataSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        try:
            operators.edit(row, body.validated_data["data"], version)
        except SessionConflict as error:
            raise PreconditionFailed(f"{error}") from error
        return self._shown()

    @documented(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Delete a session with data, flow and slice; its messages stay on the platform."""
        operators.delete(self._target())
        return Response(status=204)

    @documented(request=None, responses={202: DeletionSerializer}, examples=[examples.DELETION])
    @action(detail=True, methods=["post"])
    def clear(self, request: Request, pk: str) -> Response:
        """Begin to delete its messages, on the platform and here."""
        deletion = operators.clear(self._target(), by=who(request))
        return Response(DeletionSerializer(deletion).data, status=202)

    @documented(request=None, responses=ForgottenSerializer)
    @action(detail=True, methods=["post"])
    def forget(self, request: Request, pk: str) -> Response:
        """Take its messages out of its slice; they stay on the platform."""
        return Response({"forgotten": operators.forget(self._target())})

    @documented(request=None, responses={204: None})
    @action(detail=True, methods=["post"])
    def close(self, request: Request, pk: str) -> Response:
        """End the tracking: its slice is empty, its data stays."""
        operators.close(self._target())
        return Response(status=204)

    @documented(request=None, responses={204: None})
    @action(detail=True, methods=["post"])
    def reset(self, request: Request, pk: str) -> Response:
        """Delete its data: it begins anew with the next update. A closed one is gone until then."""
        operators.reset(self._target())
        return Response(status=204)

    @documented(request=None, responses=EndedSerializer)
    @action(detail=True, methods=["post"], url_path="end-flow")
    def end_flow(self, request: Request, pk: str) -> Response:
        """End the flow that waits there, as cancelled."""
        return Response({"ended": operators.end_flow(self._target())})

    @documented(request=None, responses=PausedSerializer)
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: str) -> Response:
        """Take over from the bot: what is said there is recorded, and waits."""
        return Response({"paused": operators.take_over(self._target(), who(request))})

    @documented(request=ResumeSerializer, responses=ResumedSerializer, examples=[examples.RESUME])
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        """Let the bot talk again, with or without what was said meanwhile."""
        row = self._target()
        body = ResumeSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        released = operators.hand_back(row, handles=body.validated_data["handles"])
        return Response({"released": released})
