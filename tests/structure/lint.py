"""lint.py format|tidy ROOT BUILD: clang-format over the sources, clang-tidy over the library's. Exit 77: the tool of that version is missing."""
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys

VERSION = "14"  # another version formats otherwise
FORMATTED = ("src", "tests", "kernels", "bindings", "bench")
ENDINGS = (".h", ".hpp", ".cpp", ".c", ".cu", ".cuh")
NOT_OURS = ("tests/abi/frozen",)  # a copy, kept to the byte


def tool(name):
    for candidate in (f"{name}-{VERSION}", name):
        path = shutil.which(candidate)
        if path and f"version {VERSION}." in subprocess.run([path, "--version"], capture_output=True, text=True).stdout:
            return path
    print(f"no {name} {VERSION}")
    sys.exit(77)


def run_format(root, build):
    clang_format, files = tool("clang-format"), []
    for top in FORMATTED:
        for folder, _, names in os.walk(os.path.join(root, top)):
            if not os.path.relpath(folder, root).startswith(NOT_OURS):
                files += [os.path.join(folder, name) for name in names if name.endswith(ENDINGS)]
    bad = [f for f in sorted(files) if subprocess.run([clang_format, "--dry-run", "-Werror", f], capture_output=True).returncode]
    print(f"{len(files)} files, {len(bad)} not as clang-format has them", *bad, sep="\n")
    return bool(bad)


def run_tidy(root, build):
    clang_tidy = tool("clang-tidy")
    with open(os.path.join(build, "compile_commands.json")) as file:
        files = sorted({entry["file"] for entry in json.load(file) if entry["file"].startswith(os.path.join(root, "src", ""))})

    def check(path):
        return subprocess.run([clang_tidy, "--quiet", "-p", build, path], capture_output=True, text=True)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(check, files))
    bad = [r for r in results if r.returncode]
    print(f"{len(files)} files, {len(bad)} with findings", *(r.stdout for r in bad), sep="\n")
    return bool(bad)


if __name__ == "__main__":
    sys.exit({"format": run_format, "tidy": run_tidy}[sys.argv[1]](*sys.argv[2:4]))
