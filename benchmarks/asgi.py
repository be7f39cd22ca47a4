"""The two doors under test: the fast one (rows b and c) and Django's own (row d)."""

import os

from django.core.asgi import get_asgi_application as get_django_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")

plain = get_django_application()

from botsessions.asgi import get_asgi_application  # noqa: E402  (Django is set up by now)

application = get_asgi_application()
