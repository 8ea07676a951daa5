#!/usr/bin/env bash
# Install a lock file with hashes: install_locked.sh PYTHON LOCK [cpu|cuda] [INDEX]
# cpu takes torch and torchvision, in the lock's versions, from INDEX, and no CUDA library.
set -euo pipefail

python=$1 lock=$2 variant=${3:-cuda} index=${4:-}
pip() { "$python" -m pip install --no-deps "$@"; }

case $variant in
cuda)
    pip --require-hashes -r "$lock"
    ;;
cpu)
    rest=$(mktemp)
    awk '/^[a-z0-9]/ { keep = !/^(torch|torchvision|triton|nvidia-[a-z0-9-]*|cuda-[a-z-]*)==/ } keep' \
        "$lock" >"$rest"
    pip --require-hashes -r "$rest"
    # Pins such as torch==2.12.1; an index with other builds calls them 2.12.1+cpu, which fit too.
    mapfile -t pins < <(grep -oE '^(torch|torchvision)==[0-9.]+' "$lock")
    pip ${index:+--index-url "$index"} "${pins[@]}"
    ;;
*)
    echo "install_locked.sh: variant must be cpu or cuda, got $variant" >&2
    exit 2
    ;;
esac
