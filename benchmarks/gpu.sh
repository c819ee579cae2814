#!/usr/bin/env bash
# Everything that needs a GPU, in at most eight minutes: tests on CUDA, compile, training MFU, generation
# latency, memory against the plan. Prints the tables of docs/performance.md.
#
#   bash benchmarks/gpu.sh [PYTHON]
#
# A part that fails is reported and the others still run; the exit status is that of the worst.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
export PYTHONPATH="$PWD:$PWD/benchmarks" PYTHONUNBUFFERED=1
status=0

part() { # SECONDS NAME COMMAND...
    local limit=$1 name=$2 started=$SECONDS
    shift 2
    echo "== $name"
    timeout "$limit" "$@" || { echo "-- $name: exit status $?"; status=1; }
    echo "-- $name: $((SECONDS - started)) s"
}

git rev-parse --short HEAD 2>/dev/null
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
part 100 "tests on CUDA" "$python" -m pytest -q -p no:benchmark -p no:logging --maxfail 12 tests/cuda
part 130 "training" "$python" benchmarks/gpu_training.py --batch 8 16
part 30 "kernels" "$python" benchmarks/gpu_kernels.py
part 100 "generation" "$python" benchmarks/inference.py --rounds 3
part 40 "layouts and precisions" "$python" benchmarks/gpu_layouts.py
part 40 "encoding ahead" "$python" benchmarks/encoding_ahead.py
part 40 "packed rows" "$python" benchmarks/packing.py --device cuda --dtype bfloat16 --dim 1024 --heads 16 \
    --frames 1024 --rows 8
exit $status
