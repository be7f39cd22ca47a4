"""Flows: functions that receive what a session's sender says next, across restarts.

A *waiter* is called for each message until it stops; a *conversation* is one function that waits
for answers in the middle. What waits is part of the session's row and is committed with it: nothing
lives in a process.
"""
