"""The example prints what the C example prints: test_example.py [C_EXAMPLE]."""

import os
import re
import subprocess
import sys

import common

EXAMPLE = os.path.join(common.ROOT, "bindings", "python", "examples", "forward.py")


def line(command: list, environment: dict) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


path = os.pathsep.join([os.path.join(common.ROOT, "bindings", "python"), os.environ.get("PYTHONPATH", "")])
have = line([sys.executable, "-B", EXAMPLE], {**os.environ, "PYTHONPATH": path})
print(have)
if not re.fullmatch(r".+, .+: checksum -?\d+\.\d{4}", have):
    sys.exit("not a checksum line")
if len(sys.argv) > 1:
    want = line([sys.argv[1]], dict(os.environ))
    if have != want:
        sys.exit(f"the C example prints: {want}")
