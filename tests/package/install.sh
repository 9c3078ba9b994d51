#!/bin/sh
# Installs into an empty prefix, moves it, and builds consumers from there: C by pkg-config (shared, static) and C++ by find_package.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
client="$SOURCE/tests/abi/client_v1.c"

"$CMAKE" --install "$BUILD" --prefix "$work/first" > "$work/log"
mv "$work/first" "$work/moved"
prefix="$work/moved"
for file in include/flashqla.h include/flashqla.hpp "$LIBDIR/libflashqla.so" "$LIBDIR/libflashqla.so.0" "$LIBDIR/libflashqla.a" "$LIBDIR/pkgconfig/flashqla.pc" \
    "$LIBDIR/cmake/flashqla/flashqlaConfig.cmake" "$LIBDIR/cmake/flashqla/flashqlaConfigVersion.cmake"; do
    [ -e "$prefix/$file" ] || { echo "not installed: $file"; exit 1; }
done
find "$prefix" -name LICENSE | grep -q . || { echo "not installed: LICENSE"; exit 1; }
cmp "$SOURCE/include/flashqla.h" "$prefix/include/flashqla.h"
cmp "$SOURCE/bindings/cpp/flashqla.hpp" "$prefix/include/flashqla.hpp"
# Nothing of the machine that built it is left in the files.
! grep -rlF -e "$SOURCE" -e "$BUILD" -e "$work/first" "$prefix" || { echo "names a path of the build"; exit 1; }

if [ -x "$PKG_CONFIG" ]; then
    export PKG_CONFIG_PATH="$prefix/$LIBDIR/pkgconfig"
    echo "pkg-config: version $("$PKG_CONFIG" --modversion flashqla)"
    "$CC" -std=c99 "$client" -o "$work/shared" $("$PKG_CONFIG" --cflags --libs flashqla) -lm
    env -i LD_LIBRARY_PATH="$prefix/$LIBDIR" "$work/shared"
    libraries=$("$PKG_CONFIG" --static --libs flashqla | sed 's/-lflashqla/-l:libflashqla.a/')
    "$CC" -std=c99 -DFLASHQLA_STATIC "$client" -o "$work/static" $("$PKG_CONFIG" --cflags flashqla) $libraries
    env -i "$work/static"
    ! readelf -d "$work/static" | grep -E 'libflashqla|libstdc|libcuda' || { echo "the static client needs a library of ours"; exit 1; }
else
    echo "no pkg-config: its consumers are left out"
fi

"$CMAKE" -S "$SOURCE/tests/package/consumer" -B "$work/consumer" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_COMPILER="$CXX" > "$work/log"
"$CMAKE" --build "$work/consumer" > "$work/log" || { cat "$work/log"; exit 1; }
env -i "$work/consumer/shared"
env -i "$work/consumer/static"
env -i "$work/consumer/binding"
