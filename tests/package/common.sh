# Sourced by the scripts beside it. $work is a folder of theirs, removed at the end.
set -eu
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT

fail() { echo "$*"; exit 1; }
skip() { echo "$*"; exit 77; }

# Packages of the generator $1 in $work/packages. With a CMake generator that has no preinstall target, cpack does not build again.
pack() {
    (cd "$work" && "$CPACK" -G "$1" --config "$BUILD/CPackConfig.cmake" -B "$work/packages" -D CPACK_CMAKE_GENERATOR=Ninja) > "$work/log" 2>&1 ||
        { cat "$work/log"; exit 1; }
    case "$1" in DEB) suffix=deb ;; *) suffix=tar.gz ;; esac
    for package in "$work"/packages/*.$suffix; do echo "$(basename "$package"): $(wc -c < "$package") bytes"; done
}

# What flashqla_build_info must say in a library of this build.
about="images: $IMAGES; CUDA toolkit: $TOOLKIT; "
