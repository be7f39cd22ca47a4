"""The fast door, in a process that kills or pauses itself where an update tells it to.

`kill@<point>` or `pause@<point>` in an update's text names one of the engine's points. The process
that brings the update there first obeys; whoever has it next goes on. In the name of who began a
flow it is for the update that tells of the flow's deadline.
"""

import os
import signal
import time

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.processes.settings")

from botsessions.asgi import get_asgi_application

application = get_asgi_application()

from botsessions.delivery import Delivery  # noqa: E402  (Django is set up by now)
from botsessions.engine import Engine  # noqa: E402
from botsessions.updates import DEADLINE  # noqa: E402
from tests.processes.notes import first_time  # noqa: E402

SIGNALS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP}


def obey(point: str, delivery: Delivery) -> None:
    update = delivery.update
    words = update.user.name if update.type == DEADLINE and update.user else update.text
    for word in words.split():
        name, at, where = word.partition("@")
        if at and where == point and first_time(f"{name}-{point}-{update.id}"):
            if name == "pause":
                # The thread of the database may be in a transaction, and would hold SQLite's lock.
                time.sleep(0.05)
            os.kill(os.getpid(), SIGNALS[name])


Engine.at_point = staticmethod(obey)
