"""What every mailbox is tested with: the suites behind `botsessions.testing`."""

from __future__ import annotations

from botsessions.mailboxes.contract.admit import AdmitContract
from botsessions.mailboxes.contract.commit import CommitContract
from botsessions.mailboxes.contract.content import ContentContract
from botsessions.mailboxes.contract.races import MailboxRaceContract
from botsessions.mailboxes.contract.record import RecordContract

__all__ = ["MailboxContract", "MailboxRaceContract"]


class MailboxContract(AdmitContract, CommitContract, RecordContract, ContentContract):
    """What every mailbox keeps; see `Mailbox`."""
