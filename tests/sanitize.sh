#!/bin/sh
# compute-sanitizer over the numeric tests' reduced set, on a machine with a GPU.
#
#     tests/sanitize.sh BUILD_DIR [memcheck|initcheck|racecheck ...]
#
# Without names: memcheck and initcheck on everything, then racecheck on the engines whose kernels use no async copies: racecheck does
# not follow those, and reports hazards that are none. Exit code 77: no compute-sanitizer or no device.
set -u
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
program=$1/tests/numeric/flashqla_numeric
shift
[ -x "$program" ] || { echo "sanitize: $program is not built"; exit 2; }
sanitizer=${COMPUTE_SANITIZER:-$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)}
[ -x "$sanitizer" ] || { echo "skipped: no compute-sanitizer (Debian: cuda-sanitizer; Python: nvidia-cuda-sanitizer-api)"; exit 77; }
"$program" --device=cuda --test-case=none >/dev/null || { echo "skipped: no CUDA device"; exit 77; }

# A fixed seed, so that a finding can be looked at again. Graphs make contexts of their own, which slows the tools down: memcheck alone.
run() {
  tool=$1
  shift
  echo "== $tool $*"
  "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 20 "$program" --device=cuda --quick --seed=20261123 "$@" || failed="$failed $tool"
}

failed=
for tool in ${*:-memcheck initcheck racecheck}; do
  case $tool in
    memcheck) run memcheck ;;
    # Poison would count as initialised: the workspace is left as the driver gives it.
    initcheck) run initcheck --bare-workspace --test-suite-exclude=graphs ;;
    racecheck) run racecheck --test-suite=forms,edges --engine=1 ;;
    *) echo "sanitize: unknown tool $tool"; exit 2 ;;
  esac
done
[ -z "$failed" ] || { echo "sanitize: FAILED:$failed"; exit 1; }
echo "sanitize: clean"
