"""Locks, so that no two runs work in one folder at the same time, and no process keeps one when its run has ended.

    python lock.py FILE COMMAND [ARGUMENT ...]

runs a command that holds the lock on FILE. Everything that the command starts inherits the lock, which is released when
the last of these processes ends.
"""

import fcntl
import os
import sys
import threading
import time
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


def exit_with_parent() -> None:
    """Ends this process soon after its parent was killed, which could not end it. Otherwise it would keep its locks."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if "TORCHELASTIC_RUN_ID" in os.environ:  # one of torchrun's ranks, which would wait for each other
    exit_with_parent()

if __name__ == "__main__":
    path, *command = sys.argv[1:]
    file = lock(Path(path))
    os.set_inheritable(file.fileno(), True)
    os.execvp(command[0], command)
