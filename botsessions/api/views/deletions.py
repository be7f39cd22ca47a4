"""Bulk deletions and erasures: begun here, worked off by Celery, and looked at meanwhile."""

from __future__ import annotations

from django.urls import reverse
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from botsessions.api import examples, scope
from botsessions.api.documented import documented
from botsessions.api.endpoint import Rows, who
from botsessions.api.filters import DeletionFilters, ErasureFilters
from botsessions.api.serializers import (
    CancelledSerializer,
    DeletionSerializer,
    ErasureSerializer,
    SelectionSerializer,
)
from botsessions.models import Erasure, MessageDeletion
from botsessions.operations import begin_deletion, cancel_deletion


class Deletions(ListModelMixin, RetrieveModelMixin, Rows[MessageDeletion]):
    noun = "deletions"
    queryset = MessageDeletion.objects.all()
    serializer_class = DeletionSerializer
    filterset_class = DeletionFilters
    needs = {
        "list": "view_messagedeletion",
        "retrieve": "view_messagedeletion",
        "create": "clear_botsession",
        "cancel": "cancel_messagedeletion",
    }

    @documented(
        request=SelectionSerializer,
        responses={202: DeletionSerializer},
        examples=[examples.SELECTION, examples.DELETION],
    )
    def create(self, request: Request) -> Response:
        """Begin to delete the messages of a set of sessions, which are those that are there now."""
        body = SelectionSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        selection, through = body.selection(), body.validated_data.get("through", "")
        for alias in {selection.bot, through or selection.bot}:
            scope.working(scope.require(request, alias))
        deletion = begin_deletion(selection, through=through, requested_by=who(request))
        place = reverse("botsessions_api:deletion-detail", args=[deletion.pk])
        return Response(DeletionSerializer(deletion).data, 202, headers={"Location": place})

    @documented(request=None, responses=CancelledSerializer)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """Ask for no more messages; what is out of the slices stays out."""
        return Response({"cancelled": cancel_deletion(self.get_object())})


class Erasures(ListModelMixin, RetrieveModelMixin, Rows[Erasure]):
    """The receipts. An erasure is begun with its bot."""

    noun = "erasures"
    queryset = Erasure.objects.all()
    serializer_class = ErasureSerializer
    filterset_class = ErasureFilters
    needs = {"list": "view_erasure", "retrieve": "view_erasure"}
