# Sourced by study.sh and test.sh: makes .venv beside this file, installs requirements.txt into it and puts its python
# first on PATH. PYTHON=... chooses the interpreter (3.10 to 3.13).
. common/settings.sh

find_python() { # prints the first suitable interpreter
  local python
  for python in ${PYTHON:-python3 python3.12 python3.11 python3.13 python3.10}; do
    "$python" -c 'import sys, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null &&
      echo "$python" && return
  done
  refuse "${PYTHON:-python3} is not a Python 3.10-3.13 with venv; install one (Debian: apt install python3-venv)" \
    "or name another: PYTHON=/path/to/python"
}

prepare_environment() {
  local python key index='' cpu=https://download.pytorch.org/whl/cpu
  [ -z "${PYTHON:-}" ] || "$PYTHON" -c '' 2>/dev/null || find_python >/dev/null
  if ! { [ -x .venv/bin/pip ] && .venv/bin/python -c ''; } 2>/dev/null; then
    python=$(find_python) || exit 1
    echo "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv || refuse "$python -m venv .venv failed"
  elif [ -n "${PYTHON:-}" ] && [ "$("$PYTHON" --version 2>&1)" != "$(.venv/bin/python --version)" ]; then
    refuse ".venv has $(.venv/bin/python --version), not that of PYTHON=$PYTHON; remove .venv first"
  fi
  key=$(cat requirements.txt constraints.txt | cksum)
  if [ "$(cat .venv/installed 2>/dev/null)" != "$key" ]; then
    echo "installing requirements.txt into .venv (a few minutes the first time; log: .venv/install.log)"
    # without a GPU, the CPU build of torch saves gigabytes
    if [ "$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null &&
      .venv/bin/python -c "import urllib.request as u; u.urlopen('$cpu/torch/', timeout=5)" 2>/dev/null; then
      index="--extra-index-url $cpu"
    fi
    .venv/bin/python -m pip install $index -r requirements.txt >.venv/install.log 2>&1 ||
      refuse "pip: $(grep -i '^error' .venv/install.log | tail -n 1)"
    echo "$key" >.venv/installed
  fi
  export PYTHON=$PWD/.venv/bin/python PATH=$PWD/.venv/bin:$PATH
  command -v nvidia-smi >/dev/null || export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu} # DeepSpeed looks for no GPU
}
