"""The operators' admin: what is stored, for reading, and what an operator may do about it.

Nothing is added, changed or deleted behind a mailbox's back: what changes a session goes through
`botsessions.operations`. A GET writes nothing. What is done needs a permission of its own, is
confirmed on a page that says what will happen, and is recorded in Django's admin log.

The tables are large: a list takes a few queries whatever their size, goes on from row to row
instead of counting pages (`lists`), leaves long columns alone and finds whole ids.
"""

from botsessions.admin.base import MAX_COUNT as MAX_COUNT
from botsessions.admin.base import BoundedPaginator as BoundedPaginator
from botsessions.admin.deletions import ErasureAdmin as ErasureAdmin
from botsessions.admin.deletions import MessageDeletionAdmin as MessageDeletionAdmin
from botsessions.admin.leases import MailboxLeaseAdmin as MailboxLeaseAdmin
from botsessions.admin.messages import TrackedMessageAdmin as TrackedMessageAdmin
from botsessions.admin.sessions import BotSessionAdmin as BotSessionAdmin
from botsessions.admin.updates import BotUpdateAdmin as BotUpdateAdmin
