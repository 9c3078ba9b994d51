"""compare.py on the CPU, ours alone: every kind that needs no GPU, on small rows; outputs of decode and verify are checked inside it."""
import json
import math
import os
import subprocess
import sys
import tempfile

try:
    import torch  # noqa: F401
except ImportError:
    print("no torch")
    sys.exit(77)

HERE = os.path.dirname(os.path.abspath(__file__))
RUNS = [("fwd bwd step", "66+1+3"), ("decode", "1 1x3"), ("verify", "4x3"), ("mixed checkpoints", "1030+1x2"), ("workspace", "2048"), ("error", "17+1")]


def main():
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what, seqs in RUNS:
            turn = os.path.join(folder, what.split()[0])
            open(turn + ".go", "w").close()
            command = [sys.executable, "-B", os.path.join(HERE, "compare.py"), *what.split(), "--device", "cpu", "--libs", "", "--ours",
                       os.path.join(HERE, "compare_adapter.py"), "--heads", "2/4", "--seqs", seqs, "--json", turn + ".json", "--turn", turn]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            rows += json.load(open(turn + ".json"))
    # (the CPU saves nothing for a backward: ours_saved says so)
    for row in rows:
        ours = row["ours"]
        values = ours.values() if isinstance(ours, dict) else [ours]
        assert all(isinstance(x, (int, float)) and math.isfinite(x) for x in values), row
        assert not isinstance(ours, dict) or max(values) < 2e-2, row
    print(len(rows), "rows")


if __name__ == "__main__":
    main()
