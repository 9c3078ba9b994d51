#!/usr/bin/env python3
"""Keeps what compare.py measured: its --json rows become rows of bench/results/h100.tsv, and the tables and the plot (roofline.py) of README.md.

    python3 bench/compare.py fwd bwd decode error --ours bench/compare_adapter.py --json run.json
    python3 bench/record.py run.json

A row takes the place of the one with the same kind, heads and rows; `error` is the largest relative error of ours over all tensors and
forms of that kind's error rows in the same file, else what was there. Where no peer ran beside ours, --recorded FILE (columns kind,
heads, seqs, flash_qla, flashinfer, fla, ...) gives its time, and the peer's name then ends in ", recorded".
"""
import argparse
import datetime
import json
import math
import os
import re

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
COLUMNS = ["kind", "heads", "seqs", "ours", "best peer", "its name", "speedup", "error", "date"]
NAMES = {"qla": "flash_qla", "flashinfer": "flashinfer", "fla": "fla"}
TITLES = {"fwd_ms": "forward", "bwd_ms": "backward", "decode_ms": "decode", "fwd_host_us": "host time of a call (Python)",
          "first_call_s": "first call", "fwd_mib": "memory, forward", "bwd_mib": "memory, backward"}
START, END = "<!-- bench -->", "<!-- /bench -->"


def read_table(path):
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        lines = [line.rstrip("\n").split("\t") for line in f if line.strip() and not line.startswith("#")]
    return {tuple(fields[:3]): dict(zip(COLUMNS, fields)) for fields in lines[1:]}


def read_recorded(path):
    times = {}
    for line in open(path):
        fields = line.rstrip("\n").split("\t")
        if line.startswith("#") or fields[0] == "kind" or len(fields) < 6:
            continue
        known = [(float(t), n) for t, n in zip(fields[3:6], ("flash_qla", "flashinfer", "fla")) if t not in "-?"]
        if known:
            times[tuple(fields[:3])] = min(known)
    return times


def errors(rows):
    """Largest error of ours by kind of time row."""
    worst = {}
    for row in rows:
        kind = {"fwd_err": "fwd_ms", "bwd_err": "bwd_ms"}.get(row["kind"])
        if kind and isinstance(row.get("ours"), dict):
            worst[kind] = max([worst.get(kind, 0)] + list(row["ours"].values()))
    return worst


def number(x):
    return isinstance(x, float) or isinstance(x, int)


def merge(table, rows, recorded, date):
    worst = errors(rows)
    for row in rows:
        if row["kind"] not in TITLES or not number(row.get("ours")):  # refusals are text, times outside a graph are lists
            continue
        key = (row["kind"], row["heads"], row["seqs"])
        peers = [(row[n], NAMES[n]) for n in NAMES if number(row.get(n))]
        best = min(peers) if peers else recorded.get(key)
        name = best[1] + ("" if peers else ", recorded") if best else "-"
        error = f"{worst[key[0]]:.2e}" if key[0] in worst else table.get(key, {}).get("error", "-")
        table[key] = dict(zip(COLUMNS, [*key, f"{row['ours']:g}", f"{best[0]:g}" if best else "-", name,
                                        f"{best[0] / row['ours']:.2f}" if best and row["ours"] else "-", error, date]))


def write_table(path, table):
    with open(path, "w") as f:
        f.write("\t".join(COLUMNS) + "\n")
        for row in table.values():
            f.write("\t".join(row[c] for c in COLUMNS) + "\n")


def summary(table, source):
    lines = [f"Speed against the best peer of each row, from `{source}` (ms by median graph replay, L2 flushed):", "",
             "| | rows | geometric mean | worst row | best row | last measured |", "| --- | --- | --- | --- | --- | --- |"]
    for kind in TITLES:
        rows = [r for r in table.values() if r["kind"] == kind and r["speedup"] != "-"]
        if not rows:
            continue
        rows.sort(key=lambda r: float(r["speedup"]))
        mean = math.exp(sum(math.log(float(r["speedup"])) for r in rows) / len(rows))
        tell = lambda r: f"{r['speedup']}x ({r['heads']} heads, {r['seqs']}: {r['ours']}, {r['its name']} {r['best peer']})"
        lines.append(f"| {TITLES[kind]} | {len(rows)} | {mean:.2f}x | {tell(rows[0])} | {tell(rows[-1])} | {max(r['date'] for r in rows)} |")
    lines += ["", f"![achieved TFLOP/s over FLOP a byte]({os.path.splitext(source)[0]}.svg)"]
    for kind in ("fwd_ms", "bwd_ms", "decode_ms"):
        lines += matrix([r for r in table.values() if r["kind"] == kind], TITLES[kind])
    return "\n".join(lines)


def matrix(rows, title):
    """Key and value heads down, rows of tokens across: ms, and how often faster than the best peer."""
    if not rows:
        return []
    heads, seqs = ([*dict.fromkeys(r[c] for r in rows)] for c in ("heads", "seqs"))
    cells = {(r["heads"], r["seqs"]): f"{r['ours']} ({r['speedup']}x)" for r in rows}
    return ["", f"| {title}, ms | " + " | ".join(seqs) + " |", "| --- " * (len(seqs) + 1) + "|",
            *(f"| {h} heads | " + " | ".join(cells.get((h, s), "") for s in seqs) + " |" for h in heads)]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("json", nargs="*", help="files of compare.py --json; none: only the README is written again")
    p.add_argument("--out", default=os.path.join(ROOT, "bench", "results", "h100.tsv"))
    p.add_argument("--recorded", help="peers' times measured before, for rows where none ran")
    p.add_argument("--readme", default=os.path.join(ROOT, "README.md"))
    p.add_argument("--date", default=datetime.date.today().isoformat())
    a = p.parse_args()
    table = read_table(a.out)
    recorded = read_recorded(a.recorded) if a.recorded else {}
    for path in a.json:
        with open(path) as f:
            merge(table, json.load(f), recorded, a.date)
    if not table:
        raise SystemExit("nothing measured yet")
    write_table(a.out, table)
    with open(a.readme) as f:
        text = f.read()
    filled = f"{START}\n{summary(table, os.path.relpath(a.out, ROOT))}\n{END}"
    with open(a.readme, "w") as f:
        f.write(re.sub(re.escape(START) + ".*?" + re.escape(END), lambda _: filled, text, flags=re.S))
    try:
        import roofline
        roofline.draw(table, os.path.splitext(a.out)[0] + ".svg")
    except ModuleNotFoundError as missing:
        print(f"the plot is as it was: {missing}")


if __name__ == "__main__":
    main()
