"""POST /webhooks/bench/, as any project mounts it."""

from django.urls import include, path

urlpatterns = [path("webhooks/", include("botsessions.urls"))]
