"""Locks, so that no two runs work in one folder at the same time.

    python lock.py FILE COMMAND [ARGUMENT ...]

runs a command that holds the lock on FILE. Everything that the command starts inherits the lock, which is released when
the last of these processes ends.
"""

import fcntl
import os
import sys
import weakref
from pathlib import Path

HELD = weakref.WeakValueDictionary()  # this process's locks, open files by path


def lock(path: Path):
    """Waits until no other process holds the lock on `path`; returns the open file, which holds it while it exists."""
    path = path.absolute()
    if path in HELD:
        return HELD[path]
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another run, or one of its processes, works in {path.parent}: waiting until it ends", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        print(f"the file system of {path} has no locks: start only one run in that folder at a time", file=sys.stderr)
    with path.open("a") as current:
        if not os.path.sameopenfile(file.fileno(), current.fileno()):  # the other run has deleted the file
            return lock(path)
    HELD[path] = file
    return file


if __name__ == "__main__":
    path, *command = sys.argv[1:]
    file = lock(Path(path))
    os.set_inheritable(file.fileno(), True)
    os.execvp(command[0], command)
