"""Addresses: `path("api/", include("botsessions.api.urls"))`."""

from django.contrib.auth.decorators import login_not_required
from django.urls import path, re_path
from django.views.generic import RedirectView
from rest_framework.routers import SimpleRouter

from botsessions.api.views import pages
from botsessions.api.views.bots import Bots
from botsessions.api.views.deletions import Deletions, Erasures
from botsessions.api.views.messages import SessionMessages
from botsessions.api.views.sessions import Sessions
from botsessions.api.views.updates import Updates

app_name = "botsessions_api"

router = SimpleRouter()
router.register("bots", Bots, basename="bot")
router.register("sessions", Sessions, basename="session")
router.register("updates", Updates, basename="update")
router.register("deletions", Deletions, basename="deletion")
router.register("erasures", Erasures, basename="erasure")

root = RedirectView.as_view(pattern_name="botsessions_api:docs")

urlpatterns = [
    path("", login_not_required(root), name="root"),
    path("docs/", pages.docs, name="docs"),
    path("schema/", pages.schema, name="schema"),
    *router.urls,
    path(
        "sessions/<str:session>/messages/",
        SessionMessages.as_view({"get": "list", "post": "create"}),
        name="session-messages",
    ),
    # With a slash at the end: without one Django looks whether it is missing.
    re_path(r"^(?P<rest>.*/)$", pages.nowhere),
]
