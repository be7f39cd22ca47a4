"""The engine's named points, for what kills or pauses a process there."""

#: In the order in which an update reaches them.
POINTS = ("admitted", "stored", "handling", "sent", "before_commit", "committed")
