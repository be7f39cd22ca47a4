"""Run tests on a machine that stands still now and then: `python -m tests.stalled [for pytest …]`.

Every process of them is stopped for up to 1.2 s, at random, as on a machine that others use too.
What fails here alone gives something less time than it may need. The seed is printed; SEED= repeats
it, though no run is quite like another.
"""

import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from typing import Final

import psutil

#: Seconds: of work until the next stop, at least and at most, and of which a stop may be.
WORKS: Final = (0.1, 2.0)
STOPS: Final = (0.15, 0.3, 0.5, 0.8, 1.2)


def stop(root: psutil.Process) -> list[psutil.Process]:
    """Stop a process and all that it started, but for what a test has stopped itself."""
    stopped = []
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            if process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                process.suspend()
                stopped.append(process)
    return stopped


def main() -> int:
    seed = int(os.environ.get("SEED") or random.randrange(10_000))
    chance = random.Random(seed)
    pytest = psutil.Popen([sys.executable, "-m", "pytest", *sys.argv[1:]])
    stops, seconds = 0, 0.0
    while True:
        with suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
            code: int = pytest.wait(chance.uniform(*WORKS))
            break
        stopped = stop(pytest)
        length = chance.choice(STOPS)
        try:
            time.sleep(length)
        finally:
            for process in reversed(stopped):
                with suppress(psutil.NoSuchProcess):
                    process.resume()
        stops, seconds = stops + 1, seconds + length
    print(f"Stood still {stops} times, for {seconds:.0f} s. SEED={seed}")
    return code


if __name__ == "__main__":
    sys.exit(main())
