"""`path("webhooks/", include("botsessions.urls"))` gives `POST /webhooks/<bot>/`."""

from __future__ import annotations

from django.urls import path

from botsessions.views import webhook

app_name = "botsessions"

urlpatterns = [path("<str:bot>/", webhook, name="webhook")]
