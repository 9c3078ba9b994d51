#!/bin/sh
# compute-sanitizer over the numeric tests' reduced set, on a machine with a GPU.
#
#     tests/sanitize.sh BUILD_DIR [memcheck|initcheck|racecheck ...]
#
# Without names: memcheck and initcheck on everything, and racecheck on the kernels that use no async copies: of those that do it
# reports hazards that are none. Exit code 77: no compute-sanitizer or no device.
set -u
[ $# -ge 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
program=$1/tests/numeric/flashqla_numeric
shift
[ -x "$program" ] || { echo "sanitize: $program is not built"; exit 2; }
sanitizer=${COMPUTE_SANITIZER:-$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)}
[ -x "$sanitizer" ] || { echo "skipped: no compute-sanitizer (Debian: cuda-sanitizer; Python: nvidia-cuda-sanitizer-api)"; exit 77; }
"$program" --device=cuda --test-case=none >/dev/null || { echo "skipped: no CUDA device"; exit 77; }

# A fixed seed, so that a finding can be looked at again.
run() {
  tool=$1 options=$2
  shift 2
  echo "== $tool $options $*"
  "$sanitizer" --tool "$tool" $options --error-exitcode 9 --print-limit 20 "$program" --device=cuda --quick --seed=20261123 "$@" || failed="$failed $tool"
}

failed=
for tool in ${*:-memcheck initcheck racecheck}; do
  case $tool in
    memcheck) run memcheck "--report-api-errors no" ;;  # the tests check every status
    # Poison would count as initialised: the workspace is left as the driver gives it.
    initcheck) run initcheck "" --bare-workspace ;;
    racecheck) run racecheck "--kernel-name kns=gdn_backward_heads --kernel-name kns=gdn_backward_sums" --test-suite=forms,gradients --engine=1 ;;
    *) echo "sanitize: unknown tool $tool"; exit 2 ;;
  esac
done
[ -z "$failed" ] || { echo "sanitize: FAILED:$failed"; exit 1; }
echo "sanitize: clean"
