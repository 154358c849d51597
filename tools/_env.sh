# shellcheck shell=bash
# The Python environment of quickstart.sh, run_tests.sh and .ci/run. Source this file, then call `use_env SET...`
# with sets out of runtime, det, ops (compiled mmcv) and test. What is missing is installed, PY names the
# interpreter, PATH and PYTHONPATH are exported. Safe to kill and run again at any point.
#   HSTPEFT_VENV    folder of the environment (default: .venv of the project)
#   HSTPEFT_CACHE   folder shared by clones: environments in envs/<key>, compiled wheels in wheels/<key>
#   HSTPEFT_PYTHON  the Python to make it with (default: the first of 3.11 and 3.12 that runs)
#   FORCE_CUDA=1    compile the operators of mmcv for CUDA as well (needs nvcc)
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
REQUIREMENTS="$ROOT/requirements"
NEED_MB=7500  # 6 GB installed, and the wheels that pip downloads before it unpacks them

say() { printf 'hstpeft: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
hash_of() { cat -- "$@" | sha256sum | cut -c1-16; }
pin() { sed -n "s/^$1==//p" "$REQUIREMENTS"/*.txt; }

# Prints "3.11 /its/path" and fails unless the Python suits. It is run because a name on PATH may be a dead shim.
probe_python() {
  "$1" -I -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.executable)
sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null
}

find_python() {
  local name answer tried='' lame='' names=(python3.11 python3.12 python3 python)
  [[ -z "${HSTPEFT_PYTHON:-}" ]] || names=("$HSTPEFT_PYTHON")
  for name in "${names[@]}"; do
    if ! answer="$(probe_python "$name")"; then
      tried+="${tried:+, }$name${answer:+ is ${answer%% *}}"
    elif ! "$name" -I -c 'import venv, ensurepip' 2>/dev/null; then
      lame="${answer#* }"
    else
      PYTHON_VERSION="${answer%% *}" PYTHON="${answer#* }"
      return
    fi
  done
  [[ -z "$lame" ]] || die "$lame has no venv module: install it (Debian: python3-venv) or set HSTPEFT_PYTHON"
  die "no Python 3.11 or 3.12 that runs (tried: $tried): install one or set HSTPEFT_PYTHON"
}

choose_env() {
  SHARED=''
  if [[ -n "${HSTPEFT_VENV:-}" ]]; then
    ENV="$HSTPEFT_VENV"
  elif [[ -n "${HSTPEFT_CACHE:-}" ]]; then
    find_python
    SHARED=1 ENV="$HSTPEFT_CACHE/envs/py$PYTHON_VERSION-$(hash_of "$REQUIREMENTS"/{runtime,det,test}.txt)"
  else
    ENV="$ROOT/.venv"
  fi
  mkdir -p "$(dirname "$ENV")" 2>/dev/null || die "cannot make the folder $(dirname "$ENV")"
  ENV="$(cd "$(dirname "$ENV")" && pwd -P)/$(basename "$ENV")"
  PY="$ENV/bin/python" STATE="$ENV/.hstpeft" LOG="$ENV/.hstpeft/pip.log"
}

# What a set's stamp must say: a hash of what it is installed from. Stamps are written last, by renaming.
wanted() {
  local abi='import sysconfig; print(sysconfig.get_config_var("SOABI"))'
  case "$1" in
    project) echo "$ROOT $(hash_of "$ROOT"/{setup.py,pyproject.toml,hstpeft/version.py})" ;;
    ops) echo "mmcv$(pin onedl-mmcv)-torch$(pin torch)-$("$PY" -I -c "$abi")-cuda${FORCE_CUDA:-0}" ;;
    *) hash_of "$REQUIREMENTS/$1.txt" ;;
  esac
}
stamp() { printf '%s\n' "$2" >"$STATE/$1.new" && mv "$STATE/$1.new" "$STATE/$1"; }
stamped() { [[ -e "$STATE/$1" && "$(<"$STATE/$1")" == "$(wanted "$1")" ]]; }

# True if every set is installed and no installation was cut short.
ready() {
  local name
  [[ ! -e "$STATE/dirty" ]] || return 1
  probe_python "$PY" >/dev/null || return 1
  for name in "$@"; do stamped "$name" || return 1; done
}

# The descriptor is inherited by pip: if only this script is killed, the next run waits for the pip left behind.
lock_env() {
  [[ -w "$(dirname "$ENV")" ]] || die "cannot write to $(dirname "$ENV")"
  command -v flock >/dev/null || return 0
  exec 9>"$ENV.lock"
  flock -n 9 || { say "waiting for another hstpeft installation in $ENV"; flock 9; }
}

check_space() {
  local free used=0 need
  read -r _ _ _ free _ < <(df -P -B 1000000 "$(dirname "$ENV")" | tail -n 1)
  [[ ! -d "$ENV" ]] || read -r used _ < <(du -s -B 1000000 "$ENV" 2>/dev/null)
  need=$((NEED_MB - used > 1500 ? NEED_MB - used : 1500))
  ((free >= need)) || die "disk full: $(dirname "$ENV") has $free MB free, the installation needs $need MB"
}

# Makes the environment in place, for its scripts hold its path. Only a folder of ours is ever cleared: one that
# bears our stamp, or the mark left beside it by an interrupted attempt.
make_venv() {
  local out
  if [[ ! -e "$ENV.making" ]] && probe_python "$PY" >/dev/null && "$PY" -I -m pip --version >/dev/null 2>&1; then
    mkdir -p "$STATE"
    return
  fi
  if [[ ! -e "$ENV.making" && ! -e "$STATE/venv" && -n "$(ls -A "$ENV" 2>/dev/null)" ]]; then
    die "$ENV is in the way: not an environment with Python 3.11 or 3.12 and pip; move it or set HSTPEFT_VENV"
  fi
  [[ -n "${PYTHON:-}" ]] || find_python
  say "making $ENV with Python $PYTHON_VERSION"
  : >"$ENV.making"
  out="$("$PYTHON" -I -m venv --clear "$ENV" 2>&1)" || die "cannot make $ENV: $(explain "$out")"
  mkdir -p "$STATE"
  stamp venv "$PYTHON"
  rm "$ENV.making"
}

# An interrupted pip can leave a package that looks installed. Forget each package whose record is unfinished (pip
# writes INSTALLER into it last) or names a missing file: pip then installs it again over what is there.
forget_half_installed() {
  "$PY" -I - <<'PYTHON'
import csv, pathlib, shutil, sysconfig
site = pathlib.Path(sysconfig.get_path('purelib'))
for trash in site.glob('~*'):
    shutil.rmtree(trash) if trash.is_dir() else trash.unlink()
for info in site.glob('*.dist-info'):
    record = info / 'RECORD'
    files = [row[0] for row in csv.reader(record.open(encoding='utf-8'))] if record.exists() else []
    whole = any(name.endswith('.dist-info/INSTALLER') for name in files)
    if not whole or not all((site / name).exists() for name in files if not name.endswith('.pyc')):
        shutil.rmtree(info)
PYTHON
}

# Removes what an interrupted run left, and its stamps: pip looks at every set again.
clean_up() {
  rm -rf "$STATE/tmp"
  mkdir "$STATE/tmp"
  : >"$LOG"
  [[ -e "$STATE/dirty" ]] || return 0
  say 'going on after an interrupted installation'
  (cd "$STATE" && rm -f runtime det ops test project)
  forget_half_installed
}

# One line out of the output of pip.
explain() {
  case "$1" in
    *'No space left on device'* | *'Errno 28'*) echo "disk full in $ENV" ;;
    *'new connection'* | *'name resolution'* | *'imed out'* | *ProxyError* | *'etwork is unreachable'* | *'onnection aborted'*)
      echo 'no network: the package index cannot be reached' ;;
    *SSLError* | *'certificate verify failed'*) echo 'the certificate of the package index is not accepted' ;;
    *'No matching distribution found for '*)
      echo "package not found: $(sed -n 's/.*No matching distribution found for //p' <<<"$1" | tail -n 1)" ;;
    *) { grep -a '^ERROR' <<<"$1" || echo "$1"; } | tail -n 1 ;;
  esac
}

TICKER=''
# A sign of life every minute; it ends with this script even if that is killed.
start_ticker() {
  (while sleep 60 >/dev/null 2>&1 && kill -0 "$$" 2>/dev/null; do say "$1: $((++minutes)) min"; done) 9>&- &
  TICKER=$!
}
stop_ticker() {
  [[ -n "$TICKER" ]] || return 0
  { kill "$TICKER" && wait "$TICKER"; } 2>/dev/null || TICKER=''
}
trap stop_ticker EXIT

# run_pip WHAT ARGUMENTS: pip's temporary files lie in the environment, where the next run finds and removes them.
run_pip() {
  local what="$1" out minutes=0
  shift
  say "$what"
  start_ticker "$what"
  out="$(TMPDIR="$STATE/tmp" PIP_USER=0 PATH="$ENV/bin:$PATH" "$PY" -I -m pip "$@" -q --no-input \
    --disable-pip-version-check --log "$LOG" 2>&1)" || die "$what failed: $(explain "$out"); full log: $LOG"
  stop_ticker
}

has_ops() { "$PY" -I -c 'import torch, mmcv._ext' >/dev/null 2>&1; }

find_ops_wheel() {
  WHEELS="${HSTPEFT_CACHE:-$STATE}/wheels/$(wanted ops)"
  local found=("$WHEELS"/onedl_mmcv-*.whl)
  WHEEL="${found[0]}"
  [[ -e "$WHEEL" ]]
}

check_compiler() {
  # shellcheck disable=SC2086  # CXX may be two words, as in "ccache g++"
  echo '#include <vector>' | ${CXX:-c++} -x c++ -fsyntax-only - 2>/dev/null ||
    die 'no C++ compiler, which the operators of mmcv need: install one (Debian: g++) or set CXX'
  [[ -e "$("$PY" -I -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]] ||
    die "no Python headers for $PY, which the operators of mmcv need: install them (Debian: python3-dev)"
}

# pip would reuse a pure-Python wheel of mmcv from its cache, so the compiled one is built apart and kept by us.
build_ops_wheel() {
  local jobs memory=8 built
  jobs="$(getconf _NPROCESSORS_ONLN)"
  [[ ! -r /proc/meminfo ]] || memory=$(($(sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo) / 2000000 + 1))
  # a GPU that is in sight would make the build ask for nvcc
  [[ "${FORCE_CUDA:-0}" == 1 ]] || local -x CUDA_VISIBLE_DEVICES=''
  local -x MAX_JOBS="${MAX_JOBS:-$((jobs < memory ? jobs : memory))}" CFLAGS="${CFLAGS:--O1 -g0}"
  run_pip 'compiling the operators of mmcv, once (5 to 15 minutes on 2 idle cores)' wheel --no-cache-dir --no-deps \
    --no-build-isolation --no-binary onedl-mmcv "onedl-mmcv==$(pin onedl-mmcv)" -w "$STATE/tmp/wheel"
  built=("$STATE"/tmp/wheel/onedl_mmcv-*.whl)
  WHEEL="$WHEELS/${built[0]##*/}"
  mkdir -p "$WHEELS"
  cp "${built[0]}" "$WHEELS/part.$$"
  mv "$WHEELS/part.$$" "$WHEEL"
}

install_set() {
  case "$1" in
    runtime)
      # alone and without the cache: pip might hold a wheel of mmcv compiled for another torch
      run_pip 'installing mmcv' install --no-cache-dir --no-deps "onedl-mmcv==$(pin onedl-mmcv)"
      run_pip 'installing torch and the other runtime packages (6 GB)' install -r "$REQUIREMENTS/runtime.txt"
      ;;
    ops)
      [[ "${FORCE_CUDA:-0}" == 1 ]] || ! has_ops || return 0
      find_ops_wheel || build_ops_wheel
      run_pip 'installing mmcv with operators' install --force-reinstall --no-deps "$WHEEL"
      has_ops || { rm -f "$WHEEL"; die "the compiled mmcv does not import; $WHEEL is removed, run again"; }
      ;;
    project) run_pip 'installing hstpeft' install --no-deps --no-build-isolation -e "$ROOT" ;;
    *) run_pip "installing the packages of $1.txt" install -r "$REQUIREMENTS/$1.txt" ;;
  esac
}

install_missing() {
  local name
  check_space
  make_venv
  [[ " $* " != *' ops '* ]] || stamped ops || find_ops_wheel || has_ops || check_compiler
  clean_up
  : >"$STATE/dirty"
  for name in "$@"; do
    stamped "$name" && continue
    install_set "$name"
    stamp "$name" "$(wanted "$name")"
  done
  rm -r "$STATE/tmp" "$STATE/dirty"
}

use_env() {
  local sets=("$@")
  choose_env
  # an environment of many clones belongs to none of them: there, PYTHONPATH alone makes hstpeft importable
  if [[ -z "$SHARED" && -w "$ROOT" && " $* " == *' runtime '* ]]; then sets+=(project); fi
  if ! ready "${sets[@]}"; then
    lock_env
    ready "${sets[@]}" || install_missing "${sets[@]}"
    exec 9>&-
  fi
  export PATH="$ENV/bin:$PATH" VIRTUAL_ENV="$ENV" PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
  unset PYTHONHOME
}
