# Sourced by quickstart.sh and test.sh: makes and reuses .venv beside this file, installs requirements.txt into it,
# and puts its python first on PATH. PYTHON=... chooses the interpreter (3.10 to 3.13).

suitable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    suitable "$PYTHON" && { echo "$PYTHON"; return; }
    echo "error: PYTHON=$PYTHON is not a Python 3.10-3.13 with venv; name one that is" >&2
    return 1
  fi
  local candidate
  for candidate in python3 python3.12 python3.11 python3.13 python3.10 python; do
    suitable "$candidate" && { echo "$candidate"; return; }
  done
  echo "error: no Python 3.10-3.13 with venv found; install one (Debian: apt install python3 python3-venv)," \
    "or name it: PYTHON=/path/to/python bash ${0##*/}" >&2
  return 1
}

pip_install() { # pip's own words go to a log; one line per package is enough to watch
  .venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off "$@" 2>&1 |
    tee -a .venv/install.log |
    sed -n -e 's/^Collecting \([^ ]*\).*/  fetching \1/p' -e 's/^Installing collected.*/  unpacking .../p'
  local status=("${PIPESTATUS[@]}")
  [ "${status[0]}" -eq 0 ] && return
  grep -E '^ERROR' .venv/install.log | tail -n 3 >&2
  echo "error: pip could not install the requirements (log: .venv/install.log); run this again once that is mended" >&2
  return 1
}

prepare_environment() {
  local wanted python
  if [ -d .venv ] && ! .venv/bin/python -c '' 2>/dev/null; then
    echo "the interpreter of .venv is gone, making it anew"
    rm -rf .venv
  fi
  if [ ! -d .venv ]; then
    python=$(find_python) || return 1
    echo "making .venv with $("$python" --version)"
    "$python" -m venv .venv || { rm -rf .venv; echo "error: $python -m venv .venv failed" >&2; return 1; }
  elif [ -n "${PYTHON:-}" ]; then
    suitable "$PYTHON" || { find_python; return 1; }
    if [ "$("$PYTHON" --version)" != "$(.venv/bin/python --version)" ]; then
      echo "error: .venv is $(.venv/bin/python --version), PYTHON asks for $("$PYTHON" --version); remove .venv first" >&2
      return 1
    fi
  fi
  wanted=$(cksum <requirements.txt)
  if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
    echo "installing requirements.txt into .venv (some minutes the first time)"
    if [ "$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
      # without a GPU the CPU build spares gigabytes; where its index cannot be reached, PyPI's build serves as well
      local cpu=https://download.pytorch.org/whl/cpu
      if .venv/bin/python -c "import urllib.request as u; u.urlopen('$cpu/torch/', timeout=5)" 2>/dev/null; then
        pip_install --index-url "$cpu" --extra-index-url https://pypi.org/simple "$(grep '^torch==' requirements.txt)" || return 1
      fi
    fi
    pip_install -r requirements.txt || return 1
    # of lm-eval only its prompt files are read; its scikit-learn, where it is found, is imported by transformers for
    # nothing that is used here, a second of every script's start
    .venv/bin/python -m pip uninstall -yq scikit-learn 2>>.venv/install.log
    echo "$wanted" >.venv/installed
  fi
  PATH=$PWD/.venv/bin:$PATH
  export PYTHON=$PWD/.venv/bin/python PATH
  command -v nvidia-smi >/dev/null || export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu} # DeepSpeed need not look for a GPU
}
