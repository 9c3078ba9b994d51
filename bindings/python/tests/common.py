"""What the test scripts share: the package from the source tree, the skip that CTest understands, comparisons, golden vectors."""

from __future__ import annotations

import importlib
import os
import sys
import unittest
from typing import Any

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
if not os.environ.get("FLASHQLA_TEST_INSTALLED"):
    sys.path.insert(0, os.path.join(ROOT, "bindings", "python"))


def skip(why: str) -> None:
    """Ends the script as CTest's skipped (77)."""
    print(f"skipped: {why}")
    sys.exit(77)


def need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        return skip(f"{module}: {error}")


def error(have: Any, want: Any) -> float:
    """Relative L2 error in float64, of torch tensors or numpy arrays; NaN is never small."""
    import numpy as np

    have, want = (np.asarray(x.detach().double().cpu() if hasattr(x, "detach") else x, np.float64) for x in (have, want))
    assert have.shape == want.shape, (have.shape, want.shape)
    size = float(np.linalg.norm(want)) or 1.0
    return float(np.linalg.norm(have - want)) / size


class TestCase(unittest.TestCase):
    def assertClose(self, have: Any, want: Any, bound: float, what: str = "") -> None:
        got = error(have, want)
        self.assertTrue(got <= bound, f"{what}: relative error {got:.3g}, at most {bound:g} allowed")


def golden() -> Any:
    """The golden cases: (form, arrays) for each; the form's keys are the manifest's columns."""
    import numpy as np

    folder = os.path.join(ROOT, "tests", "golden")
    data = np.fromfile(os.path.join(folder, "vectors.bin"), "<f8")
    cases: list = []
    with open(os.path.join(folder, "manifest.tsv")) as manifest:
        for line in manifest:
            kind, *rest = line.rstrip("\n").split("\t")
            if kind == "case":
                keys = ("name", "gate", "beta", "beta_scale", "l2", "eps", "head_map", "layout", "scale")
                cases.append((dict(zip(keys, rest)), {}))
            elif kind == "array":
                name, offset, shape = rest
                extents = [int(x) for x in shape.split("x")]
                size = int(np.prod(extents))
                cases[-1][1][name] = data[int(offset) : int(offset) + size].reshape(extents)
    return cases
