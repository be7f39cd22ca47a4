"""The ASGI door: webhooks are answered by botsessions itself, everything else by Django."""

import os
import warnings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from botsessions.asgi import get_asgi_application

# WhiteNoise hands Django a plain file to stream, and Django reads it in a thread: as we want it.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")

application = get_asgi_application()
