#!/bin/sh
# compare.sh GGML_SOURCE GGML_BUILD FLASHQLA_BUILD [SECONDS [THREADS...]]: ggml's own op and flashqla, result and time, from the same tensors.
#
# GGML_SOURCE has include/ggml.h, GGML_BUILD its libraries (libggml-base and libggml-cpu, static or shared); a ggml of June 2026 or newer,
# whose ggml_gated_delta_net takes the number of snapshots. FLASHQLA_BUILD has libflashqla.so. SECONDS for each row, 1 unless told;
# THREADS of ggml, 1 and 2 unless told.
set -eu
if [ $# -lt 3 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
source=$1 build=$2 flashqla=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

libraries=
for name in cpu base; do
    library=$(find "$build" -name "libggml-$name.so" -o -name "libggml-$name.a" | head -n 1)
    [ -n "$library" ] || { echo "no libggml-$name under $build" >&2; exit 1; }
    libraries="$libraries $library -Wl,-rpath,$(dirname "$library")"
done
${CC:-cc} -std=c99 -O2 -I"$here/../../include" -I"$here" -c "$here/flashqla_ggml.c" -o "$work/flashqla_ggml.o"
# shellcheck disable=SC2086
${CXX:-c++} -std=c++17 -O2 -fopenmp -I"$here/../../include" -I"$here" -I"$here/examples" -I"$source/include" "$here/compare/compare.cpp" \
    "$work/flashqla_ggml.o" $libraries -L"$flashqla" -lflashqla -Wl,-rpath,"$(cd "$flashqla" && pwd)" -lpthread -ldl -lm -o "$work/compare"
grep -m 1 'model name' /proc/cpuinfo 2>/dev/null || true
date -u +%Y-%m-%d
"$work/compare" "$@"
