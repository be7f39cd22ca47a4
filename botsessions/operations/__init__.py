"""What keeps a running installation clean, as plain functions.

The Celery task and the subcommand of `manage.py bots` of the same name call the same function. Each
may be called at any time, in any number of processes.
"""

from botsessions.operations import operators as operators
from botsessions.operations.deleting import begin_deletion as begin_deletion
from botsessions.operations.deleting import cancel_deletion as cancel_deletion
from botsessions.operations.deleting import delete_messages as delete_messages
from botsessions.operations.deleting import follow_deletion as follow_deletion
from botsessions.operations.erasing import begin_erasure as begin_erasure
from botsessions.operations.erasing import continue_erasure as continue_erasure
from botsessions.operations.erasing import erase as erase
from botsessions.operations.erasing import finish_erasures as finish_erasures
from botsessions.operations.expiry import sweep as sweep
from botsessions.operations.exporting import export as export
from botsessions.operations.migrating import migrate_data as migrate_data
from botsessions.operations.pruning import prune as prune
from botsessions.operations.recovery import deadlines as deadlines
from botsessions.operations.recovery import recover as recover
