#!/bin/sh
# Packs with cpack, unpacks into an empty folder, and runs a program that was built before against it, in an empty environment: neither a
# toolkit nor a driver is to be found through anything but the library itself.
. "$(dirname "$0")/common.sh"

pack TGZ
mkdir "$work/unpacked"
tar -xzf "$work"/packages/flashqla-*.tar.gz -C "$work/unpacked" --strip-components=1
library=$(find "$work/unpacked" -name libflashqla.so.0)
folder=$(dirname "$library")

for program in abi/client_v1 package/about; do
    "$CC" -std=c99 -I "$SOURCE/include" "$SOURCE/tests/$program.c" -o "$work/$(basename $program)" "$BUILD/libflashqla.so" -lm -Wl,--disable-new-dtags
done
env -i LD_LIBRARY_PATH="$folder" ldd "$work/client_v1" > "$work/ldd"
cat "$work/ldd"
! grep -E 'not found|cuda|nvidia|stdc' "$work/ldd" || fail "needs what a bare machine has not"
grep -q "$folder/libflashqla.so.0" "$work/ldd" || fail "the library of the package was not taken"
env -i LD_LIBRARY_PATH="$folder" "$work/client_v1"
env -i LD_LIBRARY_PATH="$folder" "$work/about" "$about"
