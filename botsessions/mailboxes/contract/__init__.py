"""What every mailbox is tested with: the suites behind `botsessions.testing`."""

from __future__ import annotations

from botsessions.mailboxes.contract.accesses import AccessContract, AccessRaceContract
from botsessions.mailboxes.contract.admit import AdmitContract
from botsessions.mailboxes.contract.commit import CommitContract
from botsessions.mailboxes.contract.content import ContentContract
from botsessions.mailboxes.contract.flows import FlowContract, FlowRaceContract
from botsessions.mailboxes.contract.races import MailboxRaceContract as RaceContract
from botsessions.mailboxes.contract.record import RecordContract
from botsessions.mailboxes.contract.sessions import SessionContract
from botsessions.mailboxes.contract.slices import SliceContract

__all__ = ["MailboxContract", "MailboxRaceContract"]


class MailboxContract(
    AdmitContract,
    CommitContract,
    RecordContract,
    ContentContract,
    SessionContract,
    SliceContract,
    AccessContract,
    FlowContract,
):
    """What every mailbox keeps; see `Mailbox`."""


class MailboxRaceContract(RaceContract, AccessRaceContract, FlowRaceContract):
    """What every mailbox keeps when it is used by several threads at once."""
