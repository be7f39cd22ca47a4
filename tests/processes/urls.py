"""The webhooks alone."""

from django.urls import include, path

urlpatterns = [path("webhooks/", include("botsessions.urls"))]
