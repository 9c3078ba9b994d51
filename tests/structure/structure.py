"""structure.py ROOT: rooms include only what the arrows of cmake/rooms.cmake allow, files stay short, and a few things appear nowhere."""
import os
import re
import sys

MOST_LINES = 600
SOURCES = (".h", ".cpp", ".c", ".cu", ".cuh", ".inc", ".hpp")

PUBLIC, CONTRACT, BASE, PLAN = "include", "kernels/contract", "src/base", "src/plan"
PTX = "kernels/ptx"
ALLOWED = {
    PUBLIC: set(),
    CONTRACT: {PUBLIC},
    BASE: {PUBLIC},
    PLAN: {PUBLIC, CONTRACT, BASE},
    "src/cpu": {PUBLIC, CONTRACT, BASE, PLAN},
    "src/cuda": {PUBLIC, CONTRACT, BASE, PLAN},
    "src/api": {PUBLIC, CONTRACT, BASE, PLAN, "src/cpu", "src/cuda"},
    PTX: {CONTRACT},
    "kernels/common": {PUBLIC, CONTRACT, PTX},
}
SM_ROOM = {PUBLIC, CONTRACT, PTX, "kernels/common"}
BINDING = {PUBLIC}

# What must not appear, where, and why.
FORBIDDEN = [
    (r"\bgetenv\b", ("src/",), "environment variables are not read"),
    (r"<cuda\.h>", ("src/api", "src/plan", "src/cpu", "src/base"), "src/cuda alone knows the driver"),
    (r"<cuda_runtime|cudaMalloc|cudaMemcpy|cudaStream_t\b(?!\))", ("src/",), "no CUDA runtime"),
    (r"\batomicAdd\b|\bred\.(?:global|shared)\.add\.f", ("kernels/",), "no float atomics: results are the same bits each time"),
    (r"\b(?:__)?asm\b", ("kernels/common/", "kernels/sm90/", "kernels/contract/"), "inline assembly stands in kernels/ptx"),
    (r"<(?:mutex|thread|string|vector|iostream|functional)>", ("src/",), "nothing that needs libstdc++"),
    (r"cuCtxSynchronize|cuStreamSynchronize|cuMemAlloc", ("src/",), "the library neither waits nor allocates on a device"),
]


def sources(root):
    for top in ("include", "src", "kernels", "bindings", "tests", "bench"):
        for folder, _, names in os.walk(os.path.join(root, top)):
            for name in names:
                if name.endswith(SOURCES):
                    path = os.path.relpath(os.path.join(folder, name), root)
                    yield path, open(os.path.join(root, path), errors="replace").read()


def allowed_rooms(room):
    if room in ALLOWED:
        return ALLOWED[room]
    if re.fullmatch(r"kernels/sm\d+", room):
        return SM_ROOM
    return BINDING if room.startswith("bindings/") else None


def check_includes(files):
    by_name = {}
    for path in files:
        by_name.setdefault(os.path.basename(path), set()).add(os.path.dirname(path))
    wrong = []
    for path, text in files.items():
        room = os.path.dirname(path)
        allowed = allowed_rooms(room)
        if allowed is None:
            continue
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.M):
            if os.path.normpath(os.path.join(room, name)) in files:
                target = os.path.dirname(os.path.normpath(os.path.join(room, name)))
                rooms = {target}
            else:
                rooms = by_name.get(os.path.basename(name), set())
            own = {r for r in rooms if r == room or (room.startswith("bindings/") and r.startswith("/".join(room.split("/")[:2])))}
            if rooms and not own and not rooms & allowed:
                wrong.append(f'{path}: includes "{name}" of {", ".join(sorted(rooms))}')
    return wrong


def check_lines(files):
    return [f"{path}: {text.count(chr(10))} lines, at most {MOST_LINES}" for path, text in files.items() if text.count("\n") > MOST_LINES]


def check_forbidden(files):
    wrong = []
    for path, text in files.items():
        code = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
        for pattern, rooms, why in FORBIDDEN:
            found = re.search(pattern, code)
            if found and path.startswith(rooms):
                wrong.append(f"{path}: {found.group(0)}: {why}")
    return wrong


def main():
    files = dict(sources(sys.argv[1]))
    wrong = check_includes(files) + check_lines(files) + check_forbidden(files)
    print(f"{len(files)} files", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
