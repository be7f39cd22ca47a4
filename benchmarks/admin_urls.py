"""The admin, the API and webhooks, as any project mounts them."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("webhooks/", include("botsessions.urls")),
    path("api/", include("botsessions.api.urls")),
]
