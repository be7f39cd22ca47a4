"""Pacing: what a bot sends goes when its platform's rates allow it, whichever process sends.

`pacer` has the queues of one process, `window` the arithmetic, and `redis` and `database` keep the
windows that all processes share.
"""

from botsessions.pacing.pacer import Pacer

__all__ = ["Pacer"]
