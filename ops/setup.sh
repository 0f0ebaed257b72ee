#!/usr/bin/env bash
# Makes .venv with exactly the dependencies of uv.lock. Called by `make setup`, and through it by every other word.
#   Python  $PYTHON if given, else /usr/bin/python3.11 (the reference), else the newest python3 >= 3.11 that is found
#   uv      the one inside .venv (installed there by pip), in the version of uv.lock
# Works as root and as a user, with or without python3-venv; where it cannot go on, it says which command helps.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-} /usr/bin/python3.11 python3.14 python3.13 python3.12 python3.11 python3 /usr/bin/python3; do
    candidate=$(command -v "$candidate") || continue
    new_enough "$candidate" && { echo "$candidate"; return; }
  done
  say "Outlast needs Python 3.11 or newer, and none was found. On Debian 12 or newer:"
  say "    sudo apt-get install python3 python3-venv"
  exit 1
}

make_venv() { # the venv has pip afterwards only if ensurepip works; install_uv copes with both
  local python=$1
  if "$python" -c 'import ensurepip, venv' 2>/dev/null; then "$python" -m venv .venv; return; fi
  if "$python" -m pip --version >/dev/null 2>&1; then "$python" -m venv --without-pip .venv; return; fi
  local package; package=$("$python" -c 'import sys; print(f"python3.{sys.version_info.minor}-venv")')
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $package (this Python has neither ensurepip nor pip)"
    { apt-get update -qq && { apt-get install -y -qq "$package" || apt-get install -y -qq python3-venv; }; } >&2
    "$python" -m venv .venv
  else
    say "This Python ($python) can make no virtual environment: it has neither ensurepip nor pip. Please run"
    say "    sudo apt-get install $package"
    say "and then make setup again."
    exit 1
  fi
}

install_uv() {
  local python=$1 version
  version=$(awk '/^name = "uv"$/ { getline; gsub(/[^0-9.]/, ""); print; exit }' uv.lock)
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1 && "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv .venv # a venv that uv made has no pip yet
  fi
  if .venv/bin/python -m pip --version >/dev/null 2>&1; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$version"
  else
    "$python" -m pip --python .venv/bin/python install --quiet --disable-pip-version-check "uv==$version"
  fi
}

python=$(find_python)
if [ ! -x .venv/bin/python ] || ! new_enough .venv/bin/python; then
  say "making .venv with $python"
  rm -rf .venv
  make_venv "$python"
fi
[ -x .venv/bin/uv ] || install_uv "$python"
UV_PYTHON_DOWNLOADS=never .venv/bin/uv sync --frozen --quiet
say "ready: .venv ($(.venv/bin/python --version), $(.venv/bin/uv --version))"
