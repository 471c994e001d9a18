#!/usr/bin/env bash
# The whole study, small but real, on a machine without GPU and hub. Extends the context of a small base, which is part
# of this repository, by a factor of 4 with ten methods, evaluates every checkpoint with every benchmark, and writes the
# table, the figures and the report.
#
#   bash quickstart.sh                     about 9 minutes on 2 cores; rerun it to resume
#   PYTHON=python3.12 bash quickstart.sh   with another interpreter
#   RUN=/some/folder bash quickstart.sh    results in /some/folder instead of quickstart_run/
#   bash quickstart.sh --dry_run           only prints the commands
#
# It is study.sh with the settings of presets/pocket.sh: the same scripts and launchers as the 8-GPU study.
cd "$(dirname "$0")" && PRESET=pocket exec bash study.sh "$@"
