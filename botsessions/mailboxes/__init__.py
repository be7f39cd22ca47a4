"""Mailboxes: order, duplicates, leases and retries of updates, and the commit of what they did."""
