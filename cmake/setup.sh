#!/bin/sh
# Installs what building flashqla takes and this machine lacks. Silent when nothing is missing; safe to run again.
#
#   sh cmake/setup.sh          compilers, test and benchmark libraries, and nvcc 13.0
#   sh cmake/setup.sh --cpu    the same without nvcc (then configure with -DFLASHQLA_CUDA=OFF)
#   sh cmake/setup.sh --lint   also clang, clang-format and clang-tidy 14, for the tests that are skipped without them
#   sh cmake/setup.sh --bindings   also what the bindings' tests are skipped without: numpy for Python, rustc, go, mono, debootstrap
#                              (150 MB to download, 720 MB on disk)
#
# Packages come by apt-get (Debian 12, Ubuntu 24.04 and later), as root or through sudo where that asks for no password; otherwise the
# command is printed for you to run. Where there is no nvcc 13.0 it comes from Python packages into build/toolkit (git-ignored, about
# 270 MB), where cmake/cubin.cmake finds it. Neither a GPU nor a driver is needed to build.
set -eu
cd "$(dirname "$0")/.."
toolkit=build/toolkit

want_cuda=yes want_lint=no want_bindings=no
for option in "$@"; do
    case "$option" in
        --cpu) want_cuda=no ;;
        --lint) want_lint=yes ;;
        --bindings) want_bindings=yes ;;
        *) echo "usage: sh cmake/setup.sh [--cpu] [--lint] [--bindings]" >&2; exit 2 ;;
    esac
done

has() { command -v "$1" >/dev/null 2>&1; }
say() { echo "setup: $*"; }

# An nvcc of 13.0, where cmake/cubin.cmake looks.
nvcc_found() {
    for nvcc in "$toolkit/nvidia/cu13/bin/nvcc" "${CUDA_HOME:-/nowhere}/bin/nvcc" /usr/local/cuda/bin/nvcc nvcc; do
        if has "$nvcc" && "$nvcc" --version | grep -q 'release 13\.0'; then return 0; fi
    done
    return 1
}

has_header() { echo "#include <$1>" | c++ -std=c++17 -E -x c++ - >/dev/null 2>&1; }

cmake_version() { cmake --version | sed -n 's/^cmake version \([0-9]*\)\.\([0-9]*\).*/\1 * 1000 + \2/p'; }
cmake_is_new_enough() { has cmake && [ $(($(cmake_version))) -ge 3025 ]; }

has_module() { python3 -c "import $1" >/dev/null 2>&1; }
# Whether python3 takes its modules from Debian's packages: not one of pyenv, conda or a virtual environment.
python_is_debians() { ! has python3 || [ "$(python3 -c 'import sys; print(sys.prefix)')" = /usr ]; }

missing=
lacks() { missing="$missing $1"; }
cmake_is_new_enough || lacks cmake
if ! has c++ || ! has cc; then lacks g++; fi
has make || lacks make
has_header doctest/doctest.h || lacks doctest-dev
has_header benchmark/benchmark.h || lacks libbenchmark-dev
has python3 || lacks python3
if [ $want_lint = yes ]; then
    has clang || lacks clang
    has clang-format-14 || lacks clang-format-14
    has clang-tidy-14 || lacks clang-tidy-14
fi
if [ $want_bindings = yes ]; then
    # Debian's rustc even where there is another: it is the oldest that the crates promise to build with.
    [ -x /usr/bin/rustc ] || lacks rustc
    [ -x /usr/bin/cargo ] || lacks cargo
    has go || lacks golang-go
    has mcs || lacks mono-mcs
    has mono || lacks mono-runtime
    has debootstrap || lacks debootstrap
    has wget || lacks wget
fi
if [ $want_bindings = yes ] && python_is_debians; then
    has_module numpy || lacks python3-numpy
    has_module ensurepip || lacks python3-venv
fi
if [ $want_cuda = yes ] && ! nvcc_found && ! python3 -m pip --version >/dev/null 2>&1; then lacks python3-pip; fi

if [ -n "$missing" ]; then
    install="apt-get update -qq && apt-get install -y -qq --no-install-recommends$missing"
    if ! has apt-get; then
        say "this machine lacks$missing (Debian's names) and has no apt-get: install them, then run this again" >&2
        exit 1
    elif [ "$(id -u)" = 0 ]; then as_root="sh -c"
    elif has sudo && sudo -n true 2>/dev/null; then as_root="sudo -n sh -c"
    else
        say "run this, then cmake/setup.sh again:" >&2
        echo "  sudo sh -c '$install'" >&2
        exit 1
    fi
    say "installing$missing"
    log=$(mktemp)
    if ! $as_root "export DEBIAN_FRONTEND=noninteractive; $install" >"$log" 2>&1; then
        cat "$log" >&2
        say "this failed: $install" >&2
        exit 1
    fi
    rm -f "$log"
    if ! cmake_is_new_enough; then
        say "cmake 3.25 or newer is needed, this machine offers $(cmake --version | head -n 1)" >&2
        exit 1
    fi
fi

if [ $want_bindings = yes ] && ! has_module numpy; then
    say "installing numpy for $(command -v python3)"
    python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore numpy
fi

if [ $want_cuda = yes ] && ! nvcc_found; then
    say "bringing nvcc 13.0 into $toolkit"
    rm -rf "$toolkit" "$toolkit.part"
    python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --target "$toolkit.part" \
        'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
    mv "$toolkit.part" "$toolkit"
    nvcc_found || { say "$toolkit/nvidia/cu13/bin/nvcc does not run" >&2; exit 1; }
fi
