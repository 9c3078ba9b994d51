#!/bin/sh
# Packs with cpack, unpacks into an empty folder, and runs a program that was built before against it, in an empty environment: neither a
# toolkit nor a driver is to be found through anything but the library itself.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# With a generator that has no preinstall target, cpack does not build again.
(cd "$work" && "$CPACK" -G TGZ --config "$BUILD/CPackConfig.cmake" -B "$work/packages" -D CPACK_CMAKE_GENERATOR=Ninja > "$work/log") || { cat "$work/log"; exit 1; }
archive=$(echo "$work"/packages/flashqla-*.tar.gz)
ls -l "$archive" | awk '{print "archive: " $5 " bytes"}'
mkdir "$work/unpacked"
tar -xzf "$archive" -C "$work/unpacked" --strip-components=1
library=$(find "$work/unpacked" -name libflashqla.so.0)
folder=$(dirname "$library")

"$CC" -std=c99 -I "$SOURCE/include" "$SOURCE/tests/abi/client_v1.c" -o "$work/program" "$BUILD/libflashqla.so" -lm -Wl,--disable-new-dtags
env -i LD_LIBRARY_PATH="$folder" ldd "$work/program" > "$work/ldd"
cat "$work/ldd"
! grep -E 'not found|cuda|nvidia|stdc' "$work/ldd" || { echo "needs what a bare machine has not"; exit 1; }
grep -q "$folder/libflashqla.so.0" "$work/ldd" || { echo "the library of the package was not taken"; exit 1; }
env -i LD_LIBRARY_PATH="$folder" "$work/program"
