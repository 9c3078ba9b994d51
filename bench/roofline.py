#!/usr/bin/env python3
"""Draws a results file against the roofline of its card: achieved TFLOP/s over the floating-point operations that a call must do for
each byte that it must move (needs matplotlib).

    python3 bench/roofline.py [--table bench/results/h100.tsv] [--out bench/results/h100.svg]

Operations and bytes of a token and value head at K = V = 128 with chunks of 64: the products of the chunked form, and every tensor read
or written once, states of a row included; the backward's chunk states pass through memory once.
"""
import argparse
import os

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

import record

K = V = 128
C = 64
STATE_BYTES = 8 * K * V  # read and written in f32
COPY_TBS, MATMUL_TFLOPS = 3.03, 797  # measured on an H100 80GB HBM3, 2026-11-23: device-to-device copy; bf16 8192 x 8192 x 8192
KINDS = {"fwd_ms": ("forward", "C0"), "bwd_ms": ("backward", "C1"), "decode_ms": ("decode", "C2")}


def work(kind, heads, seqs):
    """FLOP and bytes that a row cannot do without."""
    hk, hv = map(int, heads.split("/"))
    lengths = []
    for part in seqs.split("+"):
        length, _, count = part.partition("x")
        lengths += [int(length)] * int(count or 1)
    per_key = hv / hk
    flop, moved = {"fwd_ms": (6 * K * V + 4 * C * (K + V) + 40 * C, 4 * K / per_key + 4 * V + 8),
                   "bwd_ms": (18 * K * V + 10 * C * K + 12 * C * V, 10 * K / per_key + 8 * V + 4 * C + 4 * K * V / C + 24),
                   "decode_ms": (7 * K * V, 4 * K / per_key + 4 * V + 8)}[kind]
    return sum(lengths) * hv * flop, sum(lengths) * hv * moved + len(lengths) * hv * STATE_BYTES


def draw(table, out):
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    corner = MATMUL_TFLOPS / COPY_TBS
    axes.plot([0.4, corner, 400], [0.4 * COPY_TBS, MATMUL_TFLOPS, MATMUL_TFLOPS], color="black", linewidth=1)
    axes.annotate(f"{COPY_TBS} TB/s", (2.2, 2.4 * COPY_TBS), rotation=37, fontsize=8)
    axes.annotate(f"{MATMUL_TFLOPS} TFLOP/s", (30, MATMUL_TFLOPS * 1.1), fontsize=8)
    for kind, (title, color) in KINDS.items():
        rows = [r for r in table.values() if r["kind"] == kind]
        for column, face, who in (("best peer", "none", "best peer"), ("ours", color, "flashqla")):
            points = [(flop / moved, flop / float(r[column]) / 1e9) for r in rows if r[column] != "-"
                      for flop, moved in [work(kind, r["heads"], r["seqs"])]]
            axes.scatter(*zip(*points), s=16, facecolors=face, edgecolors=color, linewidths=0.8, label=f"{title}, {who}") if points else None
    axes.set(xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="TFLOP/s", xlim=(0.4, 400), ylim=(0.02, 1500))
    axes.grid(True, which="major", linewidth=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    matplotlib.rcParams.update({"svg.hashsalt": "flashqla", "svg.fonttype": "none"})  # the same rows give the same, small file
    figure.savefig(out, metadata={"Date": None})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--table", default=os.path.join(record.ROOT, "bench", "results", "h100.tsv"))
    p.add_argument("--out")
    a = p.parse_args()
    draw(record.read_table(a.table), a.out or os.path.splitext(a.table)[0] + ".svg")


if __name__ == "__main__":
    main()
