"""A wheel of $FLASHQLA_LIBRARY, installed by pip into a bare environment, runs the example there without any variable of this one."""

import os
import re
import subprocess
import sys
import tempfile
import venv

import common

PACKAGE = os.path.join(common.ROOT, "bindings", "python")
EXAMPLE = os.path.join(PACKAGE, "examples", "forward.py")


def run(*command: str, environment: dict) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


if not os.environ.get("FLASHQLA_LIBRARY"):
    common.skip("FLASHQLA_LIBRARY is not set")
with tempfile.TemporaryDirectory() as folder:
    try:
        venv.create(os.path.join(folder, "env"), with_pip=True)
    except (ImportError, OSError, subprocess.CalledProcessError) as error:
        common.skip(f"this Python makes no environments with pip (Debian: python3-venv): {error}")
    python, bare = os.path.join(folder, "env", "bin", "python"), {"HOME": folder}
    wheels = os.path.join(folder, "wheels")
    made = run(
        sys.executable, "-B", os.path.join(PACKAGE, "backend.py"), wheels, os.environ["FLASHQLA_LIBRARY"], environment=dict(os.environ)
    )
    (wheel,) = os.listdir(wheels)
    print(made.strip(), os.path.getsize(os.path.join(wheels, wheel)), "bytes")
    if not re.fullmatch(r"flashqla-[\d.]+-py3-none-manylinux_2_\d+_\w+\.whl", wheel):
        sys.exit(f"{wheel}: not the name of a wheel")
    run(python, "-m", "pip", "install", "--quiet", "--no-index", os.path.join(wheels, wheel), environment=bare)
    print(run(python, "-B", EXAMPLE, environment=bare).strip())
    where = run(python, "-c", "from flashqla._abi import library_path; print(library_path())", environment=bare).strip()
    if not where.startswith(folder):
        sys.exit(f"the library came from {where}")
    run(python, "-m", "pip", "check", environment=bare)
    # The source folder installs too: pip calls backend.py itself.
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "flashqla", environment=bare)
    named = {**bare, "FLASHQLA_LIBRARY": os.environ["FLASHQLA_LIBRARY"]}
    run(python, "-m", "pip", "install", "--quiet", "--no-index", PACKAGE, environment=named)
    print(run(python, "-B", EXAMPLE, environment=bare).strip())
