"""What keeps a running installation clean, as plain functions.

The Celery task and the subcommand of `manage.py bots` of the same name call the same function. Each
may be called at any time, in any number of processes.
"""

from botsessions.operations.expiry import sweep as sweep
from botsessions.operations.recovery import deadlines as deadlines
from botsessions.operations.recovery import recover as recover
