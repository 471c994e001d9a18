"""Runs a command that holds a lock on a file, so that no two runs work in one folder at the same time.

    python lock.py FILE COMMAND [ARGUMENT ...]

Whatever the command starts inherits the lock, which is released when the last of these processes ends. While another
run holds the lock, the command waits.
"""

import fcntl
import os
import sys

path, *command = sys.argv[1:]
file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
os.set_inheritable(file, True)
try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("an earlier run, or a process that it started, still works in this folder: waiting until it ends", flush=True)
    fcntl.flock(file, fcntl.LOCK_EX)
except OSError:
    print("this file system has no locks: start only one run in this folder at a time", flush=True)
os.execvp(command[0], command)
