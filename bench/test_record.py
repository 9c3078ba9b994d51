"""record.py: rows of compare.py become tables; who counts as the best peer; kinds, cards and cells that are kept apart."""
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import record

GPU = {"gpu": "NVIDIA H100 80GB HBM3", "heads": "2/8", "seqs": "2048"}
ROWS = [
    {"kind": "fwd_ms", "gates": "qla", "qla": 0.09, "flashinfer": [0.01, "eager"], "ours": 0.05, **GPU},
    {"kind": "fwd_ms", "gates": "model", "qla": 0.08, "ours": 0.05, **GPU},
    {"kind": "bwd_ms", "gates": "qla", "qla": "RuntimeError: no", "ours": 0.4, "ours_saved": 0.3, **GPU},
    {"kind": "decode_ms", "gates": "raw", "flashinfer": 0.03, "fla": 0.02, "ours": 0.01, **GPU},
    {"kind": "decode_bf16_ms", "gates": "raw", "flashinfer": 0.03, "fla": None, "ours": 0.006, **GPU},
    {"kind": "mixed_ms", "gates": "raw", "ours": 1.02, "separately": 1.0, "over": 1.02, **GPU},
    {"kind": "fwd_mib", "gates": "qla", "qla": 9.0, "flashinfer": 0.0, "ours": 6.0, **GPU},
    {"kind": "fwd_err", "gates": "none", "beta": "sigmoid", "keys": "random", "state": "given", "ours": {"o": 0.003, "ht": 0.001},
     "qla": {"o": 0.004, "ht": float("nan")}, "fla": {"o": 0.002}, **GPU},
    {"kind": "fwd_err", "gates": "none", "beta": "2sigmoid", "keys": "norm1.4", "state": "none", "ours": {"o": 0.5}, "fla": {"o": 0.6}, **GPU},
]
RECORDED = "kind\theads\tseqs\tflash_qla\tflashinfer\tfla\nfwd_ms\t2/8\t2048\t0.01\t0.07\t-\nbwd_ms\t2/8\t2048\t0.6\t-\t?\n"


def main():
    with tempfile.TemporaryDirectory() as folder:
        results = os.path.join(folder, "results")
        os.mkdir(results)
        put = lambda name, text: open(os.path.join(folder, name), "w").write(text)
        put("run.json", json.dumps(ROWS))
        put("h200.json", json.dumps([{**ROWS[0], "gpu": "NVIDIA H200"}]))
        put("old.tsv", RECORDED)
        put("README.md", f"a {record.START} b {record.END} c\n")
        command = [sys.executable, "-B", os.path.join(HERE, "record.py"), "--results", results, "--readme", os.path.join(folder, "README.md"),
                   "--recorded", os.path.join(folder, "old.tsv"), "--date", "2026-01-02"]
        for _ in range(2):  # the second time changes nothing
            subprocess.run(command + [os.path.join(folder, n) for n in ("run.json", "h200.json")], check=True)
        table = record.read_table(os.path.join(results, "h100.tsv"))
        cell = lambda kind, *columns: tuple(table[kind, "2/8", "2048"][c] for c in columns)
        # A peer that did not run, or not in a graph, counts as recorded; one that did run as it ran.
        assert cell("fwd_ms", "best peer", "its name", "speedup", "error") == ("0.07", "flashinfer, recorded", "1.40", "3.00e-03"), cell("fwd_ms", "its name")
        assert cell("fwd_model_ms", "its name", "speedup") == ("flash_qla", "1.60")
        assert cell("bwd_ms", "its name", "speedup") == ("flash_qla, recorded", "1.50")
        assert cell("bwd_saved_ms", "ours", "its name") == ("0.3", "-")
        assert cell("decode_ms", "its name", "speedup") == ("fla", "2.00")
        assert cell("mixed_ms", "its name", "speedup") == ("two calls of ours", "0.98")
        assert cell("fwd_mib", "its name", "speedup") == ("flash_qla", "1.50")
        assert len(table) == 8 and len(record.read_table(os.path.join(results, "h200.tsv"))) == 1
        errors = record.read_table(os.path.join(results, "h100_errors.tsv"), record.ERROR_COLUMNS, 5)
        assert [r["ratio"] for r in errors.values()] == ["1.500", "-", "0.833"], errors
        readme, page = (open(os.path.join(at, "README.md")).read() for at in (folder, results))
        assert readme.startswith("a ") and readme.endswith(" c\n") and "| forward | 1 | 1.40x" in readme, readme
        assert "| decode, bf16 states over f32 | 2048 |" in page and "1 are at most 1.05" in page and "| o | 1.500 |" in page, page
    print("ok")


if __name__ == "__main__":
    main()
