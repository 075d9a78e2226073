#!/usr/bin/env bash
# usage: tools/setup.sh     makes .venv and everything that `make demo` and `make test` need; done within a second when it is all there
# PYTHON=python3.12 chooses the interpreter; BIRDNET=1 adds the optional sound model of animals (non-commercial weights);
# Without an NVIDIA GPU it takes PyTorch's CPU build where pip's indexes have it (GPU=0 or GPU=1 decides instead of looking);
# PIP_EXTRA_INDEX_URL may name PyTorch's own index of CPU builds.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
unset PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH ROS_DISTRO _ROS_WHEELS_BOOTSTRAP_COMPLETE
export PIP_DISABLE_PIP_VERSION_CHECK=1
venv=$root/.venv
log=$root/build/setup.log
stamp=$venv/.taco-setup
mkdir -p build

fail() {
  echo "taco: $1" >&2
  exit 1
}
has_gpu() {
  case ${GPU:-} in 0) return 1 ;; 1) return 0 ;; esac
  [ -e /dev/nvidiactl ] || [ -e /dev/nvhost-gpu ] || command -v nvidia-smi >/dev/null
}

# PyTorch as the lock has it, in its CPU build: "+cpu" behind the version, which only some indexes have.
install_cpu_torch() {
  "$venv/bin/pip" install "$(grep '^torch==' requirements/lock.txt)+cpu" >>"$log" 2>&1 && return
  [ "$(uname -m)" = x86_64 ] || return 0 # elsewhere the ordinary build is small
  echo "      no GPU here, and pip's indexes have no CPU build of PyTorch: taking the one with CUDA, 3 GB more. To spare them: Ctrl-C, and"
  echo "      PIP_EXTRA_INDEX_URL=ADDRESS make setup, with the address that PyTorch's install page shows for pip and CPU"
}
step() { printf '[%s] %s\n' "$1" "$2"; }

# Says every few seconds that a long step is alive, and shows the end of the log when it fails.
run() {
  "$@" >>"$log" 2>&1 &
  local job=$! begin=$SECONDS
  while kill -0 "$job" 2>/dev/null; do
    sleep 0.2
    if [ -t 1 ]; then printf '\r      %3d s' $((SECONDS - begin)); elif [ $(((SECONDS - begin) % 15)) = 14 ]; then
      printf '      %3d s\n' $((SECONDS - begin))
      sleep 1
    fi
  done
  [ -t 1 ] && printf '\r'
  if ! wait "$job"; then
    grep -v '^WARNING' "$log" | tail -n 15 >&2
    fail "a step of the setup failed; the whole log is in build/setup.log"
  fi
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "wanted Python 3.11 or 3.12, found none; next: apt-get install python3 python3-venv python3-dev, or PYTHON=/path/to/python make setup"
}

wanted=$(cat requirements/*.txt tools/setup.sh | cksum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  python=$(find_python)
  "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv module; next: apt-get install python3-venv"
  include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  [ -f "$include/Python.h" ] || fail "wanted the Python headers in $include, found none; next: apt-get install python3-dev"
  command -v g++ >/dev/null || fail "wanted a C++ compiler for the ROS messages, found none; next: apt-get install g++"
  : >"$log"
  step 1/4 "virtual environment with $("$python" --version)"
  [ -x "$venv/bin/python" ] || run "$python" -m venv "$venv"
  step 2/4 "pinned packages and the ROS 2 Jazzy middleware (1 to 5 minutes, about 2 GB without CUDA)"
  has_gpu || install_cpu_torch
  run "$venv/bin/pip" install -c requirements/lock.txt -r requirements/base.txt -r requirements/dev.txt -r requirements/ros-jazzy.txt
  printf '%s' "$wanted" >"$stamp"
  fresh=1
fi
[ -n "${fresh:-}" ] && step 3/4 "ROS messages and nodes"
tools/build_messages.sh "$venv"
[ -n "${fresh:-}" ] && step 4/4 "embedded models, and the photographs and sounds of demo and tests (300 MB)"
"$venv/bin/python" -m taco.cli weights fetch embedded
# pictures and sounds of demo and tests, 300 MB
[ -z "${fresh:-}" ] || "$venv/bin/python" -c 'from taco.evaluation.composed.sources import fetch; from taco.demo.picture import photographs; fetch(); photographs()'
if [ "${BIRDNET:-0}" != 0 ] && [ -n "${BIRDNET:-}" ]; then
  "$venv/bin/python" -c 'import ai_edge_litert' 2>/dev/null || run "$venv/bin/pip" install -c requirements/lock.txt -r requirements/birdnet.txt
  "$venv/bin/python" -m taco.cli weights fetch birdnet
fi
[ -n "${fresh:-}" ] && step done "next: make demo, make test"
exit 0
