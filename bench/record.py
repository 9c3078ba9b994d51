#!/usr/bin/env python3
"""Keeps what compare.py measured: its --json rows become rows of bench/results/CARD.tsv, the tables of README.md and of
bench/results/README.md, and the plot (roofline.py). CARD is h100, h200, ... as the GPU that a row was measured on is named.

    python3 bench/compare.py fwd bwd decode verify error --ours bench/compare_adapter.py --json run.json
    python3 bench/record.py run.json

A row takes the place of the one with the same kind, heads and rows; other gates than FlashQLA's own are part of the kind's name
(fwd_model_ms), and so is a backward from saved tensors (bwd_saved_ms). The best peer is the fastest of those that ran beside ours and, with
--recorded FILE (columns kind, heads, seqs, flash_qla, flashinfer, fla, ...), of those that did not: such a peer's name ends in ", recorded".
`error` is the largest relative error of ours over all tensors of that kind's error rows of the measured form (beta up to 1, keys of norm 1)
of the same run, else what was there. Every cell of the error rows goes to CARD_errors.tsv.
"""
import argparse
import datetime
import json
import math
import os
import re

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
COLUMNS = ["kind", "heads", "seqs", "ours", "best peer", "its name", "speedup", "error", "date"]
ERROR_COLUMNS = ["tensor", "gates", "beta", "keys", "state", "ours", "best peer", "its name", "ratio", "date"]
NAMES = {"qla": "flash_qla", "flashinfer": "flashinfer", "fla": "fla"}
GATES = {"": "", "_model": ", gates of a model", "_none": ", no decay", "_gentle": ", gentle decay", "_strong": ", strong decay"}
TITLES = {f"{op}{saved}{gates}_ms": title + ", from saved tensors" * bool(saved) + text
          for op, title in (("fwd", "forward"), ("bwd", "backward"), ("step", "training step"))
          for saved in ("", "_saved")[:1 if op == "fwd" else 2] for gates, text in GATES.items()}
TITLES.update({"decode_ms": "decode", "decode_bf16_ms": "decode, bf16 states", "verify_ms": "verify", "verify_bf16_ms": "verify, bf16 states",
               "mixed_ms": "prefill and decode rows in one call", "checkpoints_ms": "prefill with checkpoints",
               "fwd_host_us": "host time of a call (Python)", "first_call_s": "first call", "fwd_mib": "memory, forward",
               "bwd_mib": "memory, backward", "fwd_workspace_mib": "workspace, forward", "bwd_workspace_mib": "workspace, backward"})
MAIN = ("fwd_ms", "bwd_ms", "decode_ms", "verify_ms")  # with tables in README.md
APART = {"mixed_ms": "two calls of ours", "checkpoints_ms": "ours without, and their copy"}
START, END = "<!-- bench -->", "<!-- /bench -->"
MOST_RATIO = 1.05  # of ours to the best peer's error


def read_table(path, columns=COLUMNS, keys=3):
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        lines = [line.rstrip("\n").split("\t") for line in f if line.strip() and not line.startswith("#")]
    return {tuple(fields[:keys]): dict(zip(columns, fields)) for fields in lines[1:]}


def write_table(path, table, columns=COLUMNS):
    with open(path, "w") as f:
        f.write("\t".join(columns) + "\n")
        for row in table.values():
            f.write("\t".join(row[c] for c in columns) + "\n")


def read_recorded(path):
    """(kind, heads, rows) -> {peer: time}"""
    times = {}
    for line in open(path):
        fields = line.rstrip("\n").split("\t")
        if not line.startswith("#") and fields[0] != "kind" and len(fields) >= 6:
            times[tuple(fields[:3])] = {n: float(t) for n, t in zip(NAMES, fields[3:6]) if t not in "-?"}
    return times


def card(rows):
    names = [row["gpu"] for row in rows if "gpu" in row]
    found = re.search(r"\b[A-Z]+\d+\b", names[0]) if names else None
    return found.group().lower() if found else re.sub("[^a-z0-9]+", "_", names[0].lower()) if names else "h100"


def errors(rows):
    """Largest error of ours by kind of time row."""
    worst = {}
    for row in rows:
        kind = {"fwd_err": "fwd_ms", "bwd_err": "bwd_ms"}.get(row["kind"])
        if kind and isinstance(row.get("ours"), dict) and row.get("beta", "sigmoid") == "sigmoid" and not row.get("keys", "").startswith("norm"):
            worst[kind] = max([worst.get(kind, 0)] + list(row["ours"].values()))
    return worst


def number(x):
    return isinstance(x, float) or isinstance(x, int)


def kind_of(row):
    gates = row.get("gates", "qla")
    return row["kind"] if gates in ("qla", "raw") else re.sub("_(?=[^_]*$)", f"_{gates}_", row["kind"])


def merge(table, rows, recorded, date):
    worst = errors(rows)
    for row in rows:
        for column in ("ours", "ours_saved"):
            kind = kind_of(row) if column == "ours" else kind_of(row).replace("_", "_saved_", 1)
            if kind not in TITLES or not number(row.get(column)):  # refusals are text, times outside a graph are lists
                continue
            key = (kind, row["heads"], row["seqs"])
            # A peer that holds its scratch from call to call shows no memory: nothing to compare with.
            peers = [(row[n], NAMES[n]) for n in NAMES if number(row.get(n)) and row[n] > 0]
            if column == "ours":
                peers += [(t, f"{NAMES[n]}, recorded") for n, t in recorded.get(key, {}).items() if not number(row.get(n))]
            if kind in APART:
                peers = [(row["separately"], APART[kind])]
            best = min(peers) if peers else None
            error = f"{worst[kind]:.2e}" if kind in worst else table.get(key, {}).get("error", "-")
            table[key] = dict(zip(COLUMNS, [*key, f"{row[column]:g}", f"{best[0]:g}" if best else "-", best[1] if best else "-",
                                            f"{best[0] / row[column]:.2f}" if best and row[column] else "-", error, date]))


def merge_errors(table, rows, date):
    for row in rows:
        if row["kind"] not in ("fwd_err", "bwd_err") or not isinstance(row.get("ours"), dict):
            continue
        for tensor, ours in row["ours"].items():
            peers = [(row[n][tensor], NAMES[n]) for n in NAMES if isinstance(row.get(n), dict) and math.isfinite(row[n].get(tensor, math.nan))]
            best = min(peers) if peers else None
            key = (tensor, *(row.get(c, "-") for c in ERROR_COLUMNS[1:5]))
            # errors of f32 results of both under 1e-6 are alike
            ratio = f"{max(ours, 1e-6) / max(best[0], 1e-6) if math.isfinite(ours) else math.inf:.3f}" if best else "-"
            table[key] = dict(zip(ERROR_COLUMNS, [*key, f"{ours:.3g}", f"{best[0]:.3g}" if best else "-", best[1] if best else "-", ratio, date]))


def speeds(table, kinds):
    lines = ["| | rows | geometric mean | worst row | best row | last measured |", "| --- | --- | --- | --- | --- | --- |"]
    for kind in kinds:
        rows = [r for r in table.values() if r["kind"] == kind and r["speedup"] != "-"]
        if not rows:
            continue
        rows.sort(key=lambda r: float(r["speedup"]))
        mean = math.exp(sum(math.log(float(r["speedup"])) for r in rows) / len(rows))
        tell = lambda r: f"{r['speedup']}x ({r['heads']} heads, {r['seqs']}: {r['ours']}, {r['its name']} {r['best peer']})"
        lines.append(f"| {TITLES[kind]} | {len(rows)} | {mean:.2f}x | {tell(rows[0])} | {tell(rows[-1])} | {max(r['date'] for r in rows)} |")
    return lines


def summary(table, source):
    lines = [f"Speed against the best peer of each row, from `{source}` (ms by median graph replay, L2 flushed):", "", *speeds(table, MAIN)]
    lines += ["", "Training steps, bf16 states, other gates, mixed batches, checkpoints, memory and errors: [bench/results](bench/results/README.md)."]
    lines += ["", f"![achieved TFLOP/s over FLOP a byte]({os.path.splitext(source)[0]}.svg)"]
    for kind in MAIN:
        lines += matrix([r for r in table.values() if r["kind"] == kind], TITLES[kind] + ", ms")
    return "\n".join(lines)


def matrix(rows, title):
    """Key and value heads down, rows of tokens across: ms, and how often faster than the best peer."""
    if not rows:
        return []
    heads, seqs = ([*dict.fromkeys(r[c] for r in rows)] for c in ("heads", "seqs"))
    cells = {(r["heads"], r["seqs"]): r["ours"] + (f" ({r['speedup']}x)" if r["speedup"] != "-" else "") for r in rows}
    return ["", f"| {title} | " + " | ".join(seqs) + " |", "| --- " * (len(seqs) + 1) + "|",
            *(f"| {h} heads | " + " | ".join(cells.get((h, s), "") for s in seqs) + " |" for h in heads)]


def halves(table, what):
    """Times with bf16 states over those with f32 states."""
    rows = [{**r, "ours": f"{float(r['ours']) / float(table[f'{what}_ms', *key[1:]]['ours']):.2f}", "speedup": "-"}
            for key, r in table.items() if key[0] == f"{what}_bf16_ms" and (f"{what}_ms", *key[1:]) in table]
    return matrix(rows, f"{what}, bf16 states over f32")


def error_lines(table):
    rows = [r for r in table.values() if r["ratio"] != "-"]
    if not rows:
        return []
    rows.sort(key=lambda r: -float(r["ratio"]))
    over = sum(float(r["ratio"]) > MOST_RATIO for r in rows)
    lines = ["", f"Errors (relative L2 against float64) beside the best peer's in each of {len(rows)} cells of tensor, gates, beta, keys and state: "
             f"{len(rows) - over} are at most {MOST_RATIO} times the best peer's. The worst cell of each tensor:", "",
             "| tensor | ratio | ours | best peer | cell |", "| --- | --- | --- | --- | --- |"]
    for tensor in dict.fromkeys(r["tensor"] for r in table.values()):
        for r in [r for r in rows if r["tensor"] == tensor][:1]:
            cell = f"{r['gates']}, {r['beta']}, {r['keys']}, state {r['state']}"
            lines.append(f"| {tensor} | {r['ratio']} | {r['ours']} | {r['its name']} {r['best peer']} | {cell} |")
    return lines


def results_page(folder):
    lines = ["# Results", "",
             "Written by `bench/record.py`; `bench/README.md` tells how rows are measured. Factors are the best peer's time over ours; for prefill and decode",
             "rows in one call, that of two calls of ours over the one; for checkpoints, that of the call without them and of a copy of their bytes over the",
             "call with them. MiB where memory is named."]
    for name in sorted(n for n in os.listdir(folder) if n.endswith(".tsv") and not n.endswith("_errors.tsv")):
        table = read_table(os.path.join(folder, name))
        lines += ["", f"## {name}", "", *speeds(table, TITLES)]
        for kind in TITLES:
            if kind not in MAIN or name != "h100.tsv":
                unit = "µs" if kind.endswith("_us") else "s" if kind.endswith("_s") else "MiB" if kind.endswith("_mib") else "ms"
                lines += matrix([r for r in table.values() if r["kind"] == kind], f"{TITLES[kind]}, {unit}")
        for what in ("decode", "verify"):
            lines += halves(table, what)
        lines += error_lines(read_table(os.path.join(folder, name.replace(".tsv", "_errors.tsv")), ERROR_COLUMNS, 5))
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("json", nargs="*", help="files of compare.py --json; none: only the READMEs are written again")
    p.add_argument("--results", default=os.path.join(ROOT, "bench", "results"), help="the folder of the tables")
    p.add_argument("--recorded", help="peers' times measured before, for those that did not run")
    p.add_argument("--readme", default=os.path.join(ROOT, "README.md"))
    p.add_argument("--date", default=datetime.date.today().isoformat())
    a = p.parse_args()
    recorded = read_recorded(a.recorded) if a.recorded else {}
    measured = {}  # by card
    for path in a.json:
        with open(path) as f:
            rows = json.load(f)
        measured.setdefault(card(rows), []).extend(rows)
    for name, rows in measured.items():
        out = os.path.join(a.results, name)
        for ending, columns, keys, add in ((".tsv", COLUMNS, 3, lambda t: merge(t, rows, recorded, a.date)),
                                           ("_errors.tsv", ERROR_COLUMNS, 5, lambda t: merge_errors(t, rows, a.date))):
            table = read_table(out + ending, columns, keys)
            add(table)
            if table:
                write_table(out + ending, table, columns)
    main_table = read_table(os.path.join(a.results, "h100.tsv"))
    if main_table:
        with open(a.readme) as f:
            text = f.read()
        filled = f"{START}\n{summary(main_table, 'bench/results/h100.tsv')}\n{END}"
        with open(a.readme, "w") as f:
            f.write(re.sub(re.escape(START) + ".*?" + re.escape(END), lambda _: filled, text, flags=re.S))
    with open(os.path.join(a.results, "README.md"), "w") as f:
        f.write(results_page(a.results))
    try:
        import roofline
        if main_table:
            roofline.draw(main_table, os.path.join(a.results, "h100.svg"))
    except ModuleNotFoundError as missing:
        print(f"the plot is as it was: {missing}")


if __name__ == "__main__":
    main()
