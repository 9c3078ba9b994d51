"""The ctypes structs and codes against the C header: test_layout.py C_COMPILER. Checked by the compiler, as static assertions."""

import os
import re
import subprocess
import sys
import unittest

import common

COMPILER = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "cc"

from flashqla import _abi  # noqa: E402

HEADER = os.path.join(common.ROOT, "include", "flashqla.h")
STRUCTS = {
    "config": _abi.Config,
    "tensor": _abi.TensorStruct,
    "problem": _abi.Problem,
    "sequences": _abi.SequencesStruct,
    "state": _abi.StateStruct,
    "forward_args": _abi.ForwardArgs,
    "backward_args": _abi.BackwardArgs,
    "query_info": _abi.QueryInfoStruct,
    "device": _abi.DeviceStruct,
}
CODES = {
    "STATUS": _abi.Status,
    "DTYPE": _abi.DType,
    "HEADS": _abi.Heads,
    "GATE": _abi.Gate,
    "BETA": _abi.Beta,
    "NORM": _abi.Norm,
    "STATE": _abi.StateLayout,
    "ENGINE": _abi.Engine,
    "OP": _abi.Op,
    "FORM": _abi.Form,
    "PROBLEM": _abi.ProblemFlags,
}
OTHERS = ("DEVICE_CPU", "DEVICE_BEST", "SLOT_PAD", "SLOT_NONE", "LOG_ERROR", "LOG_INFO", "STATE_NO_FINAL")


def constants() -> dict:
    values = {f"{kind}_{code.name}": int(code) for kind, codes in CODES.items() for code in codes}
    values.update({name: getattr(_abi, name) for name in OTHERS})
    return values


class Layout(unittest.TestCase):
    def test_sizes_offsets_and_codes(self) -> None:
        lines = ["#include <stddef.h>", "#include <flashqla.h>"]
        for name, struct in STRUCTS.items():
            lines.append(f'_Static_assert(sizeof(flashqla_{name}) == {_abi.ctypes.sizeof(struct)}, "{name}");')
            for field, *_ in struct._fields_:
                at = getattr(struct, field)
                lines.append(f'_Static_assert(offsetof(flashqla_{name}, {field}) == {at.offset}, "{name}.{field}");')
                lines.append(f'_Static_assert(sizeof(((flashqla_{name}*)0)->{field}) == {at.size}, "{name}.{field}");')
        lines += [f'_Static_assert(FLASHQLA_{name} == {value}, "{name}");' for name, value in constants().items()]
        command = [COMPILER, "-std=c11", "-fsyntax-only", "-I", os.path.dirname(HEADER), "-x", "c", "-"]
        try:
            done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True)
        except OSError as error:
            common.skip(f"no C compiler: {error}")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_every_code_of_the_header_is_here(self) -> None:
        with open(HEADER) as header:
            named = set(re.findall(r"^(?:    |#define )FLASHQLA_([A-Z0-9_a-z]+) (?:= )?-?\d", header.read(), re.M))
        self.assertGreater(len(named), 50)
        self.assertEqual(named - {"VERSION", "VERSION_MAJOR", "VERSION_MINOR", "VERSION_PATCH"} - set(constants()), set())


if __name__ == "__main__":
    unittest.main()
