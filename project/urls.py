"""The addresses of the project: webhooks, the playground and the admin."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", include("botsessions.health.urls")),
    path("", RedirectView.as_view(url="/playground/")),
    path("favicon.ico", RedirectView.as_view(url="/static/botsessions/playground.svg")),
    path("admin/", admin.site.urls),
    path("api/", include("botsessions.api.urls")),
    path("playground/", include("botsessions.playground.urls")),
    path("webhooks/", include("botsessions.urls")),
]
