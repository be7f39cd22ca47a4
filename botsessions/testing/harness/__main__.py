"""`python -m botsessions.testing.harness`; the processes that it starts say `worker` behind it."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        from botsessions.testing.harness.worker import main
    else:
        from botsessions.testing.harness.command import main
    sys.exit(main(sys.argv))
