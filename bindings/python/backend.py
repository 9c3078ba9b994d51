#!/usr/bin/env python3
"""Makes the wheel: the Python files and one libflashqla.so. It is what pip calls for `pip install ./bindings/python`, and a script:

    python3 backend.py OUT_DIR [LIBRARY]

The library is LIBRARY, $FLASHQLA_LIBRARY, the newest build/*/libflashqla.so of the source tree, or one that cmake builds now: with kernels,
or without by `pip install --config-settings=cuda=off`. Needs nothing but Python (and cmake and compilers to build)."""

from __future__ import annotations

import base64
import glob
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from typing import Optional

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from flashqla._abi import newest_build  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MACHINES = {62: "x86_64", 183: "aarch64"}  # e_machine of an ELF header


# ---- the library


def find_library(settings: dict) -> Optional[str]:
    named = os.environ.get("FLASHQLA_LIBRARY")
    if named:
        if not os.path.exists(named):
            raise SystemExit(f"FLASHQLA_LIBRARY = {named}: no such file")
        return named
    if settings.get("cuda"):  # what was asked for need not be what lies about
        return None
    return newest_build()


def build_library(settings: dict, folder: str) -> str:
    if not os.path.exists(os.path.join(ROOT, "CMakeLists.txt")):
        raise SystemExit("no library to put in: set FLASHQLA_LIBRARY to a libflashqla.so, or install from the whole source tree")
    cuda = str(settings.get("cuda", "on")).upper()
    print(f"flashqla: no built library found, building one (FLASHQLA_CUDA={cuda})", flush=True)
    options = [f"-DFLASHQLA_CUDA={cuda}", "-DFLASHQLA_BUILD_TESTS=OFF", "-DFLASHQLA_BUILD_EXAMPLES=OFF"]
    try:
        subprocess.run(["cmake", "-S", ROOT, "-B", folder, *options], check=True)
        subprocess.run(["cmake", "--build", folder, "--target", "flashqla", "-j", str(os.cpu_count() or 1)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"the library could not be built: {error}. `sh cmake/setup.sh` installs what building takes; without nvcc, "
            "`--config-settings=cuda=off` builds for the CPU alone"
        ) from error
    return os.path.join(folder, "libflashqla.so")


def platform_tag(library: bytes) -> str:
    """manylinux_2_N: the newest glibc whose symbols the library asks for. It links no other library that manylinux does not allow."""
    if library[:4] != b"\x7fELF":
        raise SystemExit("the library is not an ELF file: wheels are made for Linux alone")
    machine = MACHINES.get(int.from_bytes(library[18:20], "little"))
    if not machine:
        raise SystemExit("the library's processor is none of " + ", ".join(MACHINES.values()))
    newest = max(int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)\0", library))
    return f"manylinux_2_{max(newest, 17)}_{machine}"


# ---- the wheel


def version() -> str:
    with open(os.path.join(ROOT, "CMakeLists.txt")) as project:
        return re.findall(r"project\(flashqla VERSION ([\d.]+)", project.read())[0]


def metadata() -> bytes:
    with open(os.path.join(HERE, "README.md")) as readme:
        text = readme.read()
    return (
        f"Metadata-Version: 2.1\nName: flashqla\nVersion: {version()}\nSummary: Gated DeltaNet through the flashqla C library\n"
        f"License: MIT\nRequires-Python: >=3.9\nDescription-Content-Type: text/markdown\n\n{text}"
    ).encode()


def write_wheel(out_dir: str, library: str) -> str:
    with open(library, "rb") as file:
        code = file.read()
    tag, info = f"py3-none-{platform_tag(code)}", f"flashqla-{version()}.dist-info"
    files = {f"flashqla/{os.path.basename(path)}": path for path in sorted(glob.glob(os.path.join(HERE, "flashqla", "*.py")))}
    contents = {name: open(path, "rb").read() for name, path in files.items()}
    contents["flashqla/py.typed"] = b""
    contents["flashqla/libflashqla.so"] = code
    contents[f"{info}/METADATA"] = metadata()
    contents[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: flashqla\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    contents[f"{info}/LICENSE"] = open(os.path.join(ROOT, "LICENSE"), "rb").read()
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in contents.items()
    )
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    name = f"flashqla-{version()}-{tag}.whl"
    os.makedirs(out_dir, exist_ok=True)
    with zipfile.ZipFile(os.path.join(out_dir, name), "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in contents.items():
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))  # the same files make the same wheel
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            wheel.writestr(entry, data)
    return name


# ---- what pip calls (PEP 517)


class UnsupportedOperation(Exception):
    """PEP 517's name for it."""


def build_wheel(wheel_directory: str, config_settings: Optional[dict] = None, metadata_directory: Optional[str] = None) -> str:
    settings = config_settings or {}
    library = find_library(settings)
    if library:
        print(f"flashqla: taking {library}", flush=True)
        return write_wheel(wheel_directory, library)
    with tempfile.TemporaryDirectory() as folder:
        return write_wheel(wheel_directory, build_library(settings, folder))


def build_sdist(sdist_directory: str, config_settings: Optional[dict] = None) -> str:
    raise UnsupportedOperation("the whole source tree is the source distribution")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    if len(sys.argv) == 3:
        os.environ["FLASHQLA_LIBRARY"] = sys.argv[2]
    print(build_wheel(sys.argv[1]))
