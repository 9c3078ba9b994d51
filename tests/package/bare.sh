#!/bin/sh
# The packages on a bare root: Debian 12's C library, shell, core utilities and dpkg, without compiler, Python, libstdc++, CUDA or driver. The
# .deb are installed by dpkg, programs run, everything is removed again and nothing stays; then the same with the .tar.gz. Skipped where
# there is no debootstrap, root or Debian mirror (FLASHQLA_MIRROR names another).
. "$(dirname "$0")/common.sh"
suite=bookworm
mirror=${FLASHQLA_MIRROR:-http://deb.debian.org/debian}
command -v debootstrap > "$work/log" || skip "no debootstrap"
[ "$(id -u)" = 0 ] || skip "not root"
wget -q --spider --timeout=5 --tries=1 "$mirror/dists/$suite/InRelease" || skip "no mirror: $mirror"

# The first stage only, which unpacks: the second would configure 80 packages, in a minute, of which three matter here. What nothing below
# needs is left out. That debootstrap cannot work here (a container without the rights) says nothing of the packages.
root="$work/root"
unneeded=adduser,apt,bash,e2fsprogs,gpgv,libapt-pkg6.0,libgnutls30,libstdc++6,login,mount,passwd,tzdata,util-linux,util-linux-extra
debootstrap --foreign --variant=minbase --exclude=$unneeded "$suite" "$root" "$mirror" > "$work/log" 2>&1 ||
    { tail -n 5 "$work/log"; skip "debootstrap fails here"; }
in_root() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"; }
in_root sh -c 'cd /var/cache/apt/archives && dpkg -i gcc-12-base_*.deb libgcc-s1_*.deb libc6_*.deb' > "$work/log" 2>&1 ||
    { cat "$work/log"; skip "dpkg fails here"; }
for tool in cc python3 nvcc; do ! in_root sh -c "command -v $tool" || fail "the root is not bare: $tool"; done

pack DEB
pack TGZ
cp "$work"/packages/*.deb "$root/root"
"$CC" -std=c99 -I "$SOURCE/include" "$SOURCE/tests/package/about.c" -o "$root/root/about" "$BUILD/libflashqla.so"
! in_root sh -c 'ls /usr/lib/*/libstdc++*' 2> "$work/log" || fail "the root is not bare"
! in_root /root/about "$about" 2> "$work/log" || fail "runs before anything is installed"
grep libflashqla.so.0 "$work/log"

! in_root sh -c 'dpkg -i /root/libflashqla-dev_*.deb' > "$work/log" 2>&1 || fail "libflashqla-dev installs without libflashqla0"
in_root sh -c 'dpkg -P libflashqla-dev && dpkg -i /root/libflashqla0_*.deb' > "$work/log" 2>&1 ||
    { cat "$work/log"; fail "dpkg -i libflashqla0"; }
in_root /root/about "$about"
in_root sh -c 'dpkg -i /root/libflashqla-dev_*.deb && dpkg --verify libflashqla0 libflashqla-dev && dpkg --audit' > "$work/log" 2>&1 ||
    { cat "$work/log"; fail "dpkg -i libflashqla-dev"; }
# No compiler inside: programs are built from the root's files by the one outside.
lib="$root/usr/$LIBDIR"
"$CC" -std=c99 -I "$root/usr/include" "$SOURCE/tests/abi/client_v1.c" -o "$root/root/client" -L "$lib" -lflashqla -lm
in_root /root/client
"$CC" -std=c99 -DFLASHQLA_STATIC -I "$root/usr/include" "$SOURCE/tests/package/about.c" -o "$root/root/static" "$lib/libflashqla.a" -lm -lpthread -ldl
"$CMAKE" -S "$SOURCE/tests/package/consumer" -B "$work/consumer" -DCMAKE_PREFIX_PATH="$root/usr" -DCMAKE_CXX_COMPILER="$CXX" > "$work/log"
grep -q "$lib/cmake/flashqla" "$work/consumer/CMakeCache.txt" || fail "find_package took another"

in_root sh -c 'dpkg -P libflashqla-dev libflashqla0' > "$work/log"
in_root /root/static "$about"
! in_root sh -c 'find /usr /etc /lib /var/lib/dpkg/info -name "*flashqla*" | grep .' || fail "stays after dpkg -P"
mkdir -p "$root/opt/flashqla"
tar -xzf "$work"/packages/flashqla-*.tar.gz -C "$root/opt/flashqla" --strip-components=1 # from outside: tar wants /proc
in_root sh -c "LD_LIBRARY_PATH=/opt/flashqla/$LIBDIR /root/about '$about'"
echo "on $(in_root cat /etc/debian_version)"
