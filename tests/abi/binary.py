"""binary.py CHECK SHARED STATIC: what the linker made, against what the project promises. Exit 77: a binutils tool is missing."""
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
NEEDED = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
HIGHEST_GLIBC = (2, 35)


def tool(*command):
    if not shutil.which(command[0]):
        print("no", command[0])
        sys.exit(77)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def promised_symbols():
    with open(os.path.join(HERE, "symbols.txt")) as file:
        return file.read().split()


def defined_symbols(*nm):
    """Names without their version, versions without their names."""
    rows = [line.split() for line in tool(*nm).splitlines()]
    names = [row[-1] for row in rows if len(row) == 3 and row[1] not in "Uw"]
    return [n.split("@")[0] for n in names], {n.split("@")[-1] for n in names if "@" in n}


def symbols(shared, static):
    names, _ = defined_symbols("nm", "-D", "--defined-only", shared)
    found = sorted(n for n in names if n != "FLASHQLA_0")
    wanted = promised_symbols()
    print("exported:", len(found))
    return [f"not exported: {n}" for n in wanted if n not in found] + [f"not promised: {n}" for n in found if n not in wanted]


def version_node(shared, static):
    _, versions = defined_symbols("nm", "-D", "--defined-only", "--with-symbol-versions", shared)
    print("version nodes:", versions)
    return [] if versions == {"FLASHQLA_0"} else ["every symbol must carry FLASHQLA_0"]


def dynamic(shared, tag):
    return re.findall(r"\(%s\).*\[(.*)\]" % tag, tool("readelf", "-d", "-W", shared))


def soname(shared, static):
    found = dynamic(shared, "SONAME")
    flags = tool("readelf", "-d", "-W", shared)
    wrong = [] if found == ["libflashqla.so.0"] else [f"SONAME is {found}"]
    wrong += [] if "NODELETE" in flags else ["not NODELETE"]
    wrong += ["has a run path"] if dynamic(shared, "RUNPATH") or dynamic(shared, "RPATH") else []
    stack = [line for line in tool("readelf", "-l", "-W", shared).splitlines() if "GNU_STACK" in line]
    return wrong + (["executable stack"] if any("RWE" in line for line in stack) else [])


def needed(shared, static):
    found = dynamic(shared, "NEEDED")
    print("needed:", *found)
    return [f"needs {n}" for n in found if n not in NEEDED]


def glibc(shared, static):
    versions = {tuple(int(p) for p in v.split(".")) for v in re.findall(r"GLIBC_([0-9.]+)", tool("objdump", "-T", shared))}
    print("highest GLIBC:", max(versions))
    foreign = re.findall(r"(?:GLIBCXX|CXXABI|GCC)_[0-9.]+", tool("objdump", "-T", shared))
    return [f"needs GLIBC {v}" for v in versions if v > HIGHEST_GLIBC] + [f"needs {v}" for v in set(foreign)]


def static_globals(shared, static):
    names, _ = defined_symbols("nm", "-g", "--defined-only", static)
    undefined = [line.split()[-1] for line in tool("nm", "-g", "--undefined-only", static).splitlines() if line.startswith(" ")]
    wrong = [f"global: {n}" for n in names if n not in promised_symbols()]
    wrong += [f"missing: {n}" for n in promised_symbols() if n not in names]
    return wrong + [f"needs C++: {n}" for n in undefined if n.startswith(("_Z", "__cxa_", "__gxx_", "_Unwind")) and n != "__cxa_atexit"]


if __name__ == "__main__":
    failures = globals()[sys.argv[1]](*sys.argv[2:4])
    for line in failures:
        print(line)
    sys.exit(1 if failures else 0)
