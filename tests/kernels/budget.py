"""budget.py REPORTS BUDGET [--update]: what ptxas says of each kernel (REPORTS/*.ptxas) against the checked-in budget.

A kernel may take no more registers and shared memory than its row says, exactly the parameters, and never spills. Rows of images that this
build does not hold are kept and not looked at. --update writes today's figures. Exit 77: this build has no kernels."""
import glob
import os
import re
import sys

HEADING = "# symbol\timage\tregisters\tspill_bytes\tstatic_shared_bytes\tparameter_bytes"
# Constant bank 0 holds the driver's own words first, then the parameters. ptxas tells its size up to sm_89, where the parameters begin at
# 0x160; for later images the figure is 0, not told (both compilers assert the structs' sizes in kernels/contract).
PARAMETERS_BEGIN = 0x160
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")


def figure(pattern, text):
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0


def read_reports(folder):
    kernels = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.ptxas"))):
        with open(path) as file:
            text = file.read()
        entries = list(ENTRY.finditer(text))
        for entry, after in zip(entries, entries[1:] + [None]):
            part = text[entry.end(): after.start() if after else len(text)]
            spills = figure(r"(\d+) bytes spill stores", part) + figure(r"(\d+) bytes spill loads", part)
            constants = figure(r"(\d+) bytes cmem\[0\]", part)
            kernels[entry.group(1), entry.group(2)] = (figure(r"Used (\d+) registers", part), spills, figure(r"(\d+) bytes smem", part),
                                                       max(0, constants - PARAMETERS_BEGIN))
    return kernels


def read_budget(path):
    if not os.path.exists(path):
        return {}
    with open(path) as file:
        rows = [line.rstrip("\n").split("\t") for line in file if line.strip() and not line.startswith("#")]
    return {(row[0], row[1]): tuple(int(x) for x in row[2:]) for row in rows}


def kernels_of_the_library(budget_path):
    with open(os.path.join(os.path.dirname(budget_path), "contract", "variants.inc")) as file:
        return set(re.findall(r"^FQLA_KERNEL\((\w+),", file.read(), re.M))


def write_budget(path, kernels):
    with open(path, "w") as file:
        file.write(HEADING + "\n")
        for key in sorted(kernels):
            file.write("\t".join(key) + "\t" + "\t".join(str(x) for x in kernels[key]) + "\n")


def compare(measured, budget, known):
    images = {image for _, image in measured}
    wrong = [f"{symbol} {image}: in the budget, not in variants.inc" for symbol, image in budget if symbol not in known]
    wrong += [f"{symbol} {image}: in the budget, not in the build" for symbol, image in budget if image in images and (symbol, image) not in measured]
    for key, (registers, spills, shared, parameters) in sorted(measured.items()):
        name = " ".join(key)
        if spills:
            wrong.append(f"{name}: spills {spills} bytes")
        if key not in budget:
            wrong.append(f"{name}: not in the budget")
            continue
        allowed = budget[key]
        if registers > allowed[0]:
            wrong.append(f"{name}: {registers} registers, the budget has {allowed[0]}")
        if shared > allowed[2]:
            wrong.append(f"{name}: {shared} bytes of static shared memory, the budget has {allowed[2]}")
        if parameters != allowed[3]:
            wrong.append(f"{name}: {parameters} bytes of parameters, the budget has {allowed[3]}")
        if (registers, shared) < (allowed[0], allowed[2]):
            print(f"{name}: takes less than its budget, --update keeps it")
    return wrong


def main():
    reports, path = sys.argv[1:3]
    measured, budget, known = read_reports(reports), read_budget(path), kernels_of_the_library(path)
    if not measured:
        print("no kernels in this build")
        return 77
    if "--update" in sys.argv:
        images = {image for _, image in measured}
        kept = {key: row for key, row in budget.items() if key[1] not in images and key[0] in known}
        write_budget(path, {**kept, **measured})
        return 0
    wrong = compare(measured, budget, known)
    print(f"{len(measured)} kernels, {len(wrong)} over budget", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
