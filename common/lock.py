"""Runs a command that holds a lock on a file, so that no two runs work in one folder at the same time.

    python lock.py FILE COMMAND [ARGUMENT ...]

Whatever the command starts inherits the lock. It is released when the last of these processes ends, even if the command
itself was killed before. Where another run holds the lock, one line says so and the command waits.
"""

import fcntl
import os
import sys

WAITING = "an earlier run, or what a kill left of it, is still at work in this folder: waiting until it ends"


def main() -> None:
    path, *command = sys.argv[1:]
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(file, True)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(WAITING, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        print("this file system has no locks: start only one run in this folder at a time", flush=True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
