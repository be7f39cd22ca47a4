"""The REST API: an app of its own, for `INSTALLED_APPS`. It needs django-botsessions[api]."""
