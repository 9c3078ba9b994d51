#!/bin/sh
# The two .deb: what they hold and need. Unpacked into an empty prefix, programs are built and run from there; bare.sh installs them.
. "$(dirname "$0")/common.sh"
command -v dpkg-deb > "$work/log" || skip "no dpkg-deb"

pack DEB
field() { dpkg-deb -f "$1" "$2"; }
runtime=$(echo "$work"/packages/libflashqla0_*.deb)
development=$(echo "$work"/packages/libflashqla-dev_*.deb)
[ "$(field "$runtime" Package)" = libflashqla0 ] || fail "runtime: $(field "$runtime" Package)"
[ "$(field "$runtime" Depends)" = "libc6 (>= 2.35)" ] || fail "runtime needs: $(field "$runtime" Depends)"
[ "$(field "$development" Package)" = libflashqla-dev ] || fail "development: $(field "$development" Package)"
[ "$(field "$development" Depends)" = "libflashqla0 (= $(field "$runtime" Version))" ] || fail "development needs: $(field "$development" Depends)"
architecture=$(field "$runtime" Architecture)
[ "$architecture" = "$(dpkg --print-architecture)" ] || fail "architecture: $architecture"

mkdir "$work/root"
for package in "$runtime" "$development"; do
    dpkg-deb -c "$package" | sed 's/.* \.\///; s/ -> .*//; /\/$/d' | sort > "$work/$(field "$package" Package)"
    dpkg-deb -x "$package" "$work/root"
done
cat "$work/libflashqla0" "$work/libflashqla-dev"
! grep -vE "^usr/$LIBDIR/libflashqla\.so\.0|^usr/share/doc/" "$work/libflashqla0" || fail "the runtime package holds what only builders want"
for file in include/flashqla.h include/flashqla.hpp "$LIBDIR/libflashqla.so" "$LIBDIR/libflashqla.a" "$LIBDIR/pkgconfig/flashqla.pc" \
    "$LIBDIR/cmake/flashqla/flashqlaConfig.cmake"; do
    grep -qx "usr/$file" "$work/libflashqla-dev" || fail "not in the development package: $file"
    [ -e "$work/root/usr/$file" ] || fail "points nowhere: $file"
done
[ -z "$(comm -12 "$work/libflashqla0" "$work/libflashqla-dev")" ] || fail "in both packages"

lib="$work/root/usr/$LIBDIR"
flags="-I$work/root/usr/include -L$lib -lflashqla"
[ ! -x "$PKG_CONFIG" ] || flags=$(PKG_CONFIG_PATH="$lib/pkgconfig" "$PKG_CONFIG" --cflags --libs flashqla)
# shellcheck disable=SC2086
"$CC" -std=c99 "$SOURCE/tests/package/about.c" -o "$work/about" $flags
env -i LD_LIBRARY_PATH="$lib" "$work/about" "$about"
"$CC" -std=c99 -DFLASHQLA_STATIC -I"$work/root/usr/include" "$SOURCE/tests/package/about.c" -o "$work/static" "$lib/libflashqla.a" -lm -lpthread -ldl
env -i "$work/static" "$about"
