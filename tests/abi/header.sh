#!/bin/sh
# header.sh include-folder cc c++: the header alone, in every language version that we promise, without a warning. Exit 77: no compiler.
include=$1 cc=$2 cxx=$3
[ -x "$cc" ] && [ -x "$cxx" ] || { echo "no such compiler"; exit 77; }
work=$(mktemp -d) || exit 1
trap 'rm -r "$work"' EXIT
echo '#include "flashqla.h"' > "$work/header.c"
cp "$work/header.c" "$work/header.cpp"
flags="-pedantic -Wall -Wextra -Wshadow -Werror -fsyntax-only -I$include"
status=0
compile() { # compiler file flags...
    "$@" $flags || { echo "FAILED: $*"; status=1; }
}
for std in c89 gnu89 c99 c11 c17; do
    compile "$cc" "$work/header.c" -std=$std
    compile "$cc" "$work/header.c" -std=$std -DFLASHQLA_STATIC
done
for std in c++11 c++14 c++17 c++20; do
    compile "$cxx" "$work/header.cpp" -std=$std -Wold-style-cast
done
exit $status
