#!/usr/bin/env python3
"""The planner's regret: for each row, the time of the engine that it chooses over that of the best engine.

    python3 bench/regret.py [--heads "2/8 16/64"] [--seqs "32768 1024x8"] [--table targets.tsv]

Forward rows, by compare.py's clock. With a table of recorded peers (columns as in bench/results) it also prints theirs.
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import compare
import compare_adapter as ours

NAMES = {0: "auto", 1: "recurrent", 2: "chunked", 3: "fused", 4: "context_parallel"}
SHORT = "8 16 32 64 128 256 512 1024 16x8 64x8 256x8 16x64 64x64 256x64 100+3000+7+900+64+1"
SLOW_TOKENS = 5000  # from here on this the recurrent engine is not timed: it is known to lose


def recorded_peers(path):
    rows = {}
    for line in open(path) if path else ():
        f = line.rstrip("\n").split("\t")
        if len(f) == 8 and f[0] == "fwd_ms":
            rows[f[1], f[2]] = min(float(x) for x in f[3:6] if x not in "-?")
    return rows


def time_engine(case, engine):
    ours.ENGINE = engine
    try:
        call = ours.forward(case)
    except RuntimeError:
        return None, None
    return compare.time_graph(call, reps=9)[0], NAMES[call.info.engine]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--heads", default=compare.FWD_HEADS)
    p.add_argument("--seqs", default=compare.FWD_SEQS + " " + SHORT)
    p.add_argument("--gates", default="qla")
    p.add_argument("--table")
    a = p.parse_args()
    peers, worst = recorded_peers(a.table), 1.0
    print("heads\tseqs\tchosen\tms\tbest\tms\tregret\tpeer\tspeedup\tothers")
    for heads in a.heads.split():
        hk, hv = map(int, heads.split("/"))
        for seqs in a.seqs.split():
            case = compare.Case(compare.parse_seq(seqs), hk, hv, gates=a.gates)
            auto, chosen = time_engine(case, 0)
            if not auto:
                print(heads, seqs, "refused", sep="\t", flush=True)
                continue
            times = {NAMES[e]: time_engine(case, e)[0] for e in (1, 2, 3, 4) if e != 1 or max(case.seqlens) < SLOW_TOKENS}
            times = {name: t for name, t in times.items() if t}
            best = min(times, key=times.get)
            best_ms = times[best]
            # Of engines, not of two timings of one; but an engine that is asked for serves short rows too, which AUTO may give to another.
            regret = min(auto, times.get(chosen, auto)) / best_ms
            worst = max(worst, regret)
            peer = peers.get((heads, seqs))
            print(heads, seqs, chosen, f"{auto:.4f}", best, f"{best_ms:.4f}", f"{regret:.3f}", peer or "-", f"{peer / auto:.2f}" if peer else "-",
                  " ".join(f"{n}={t:.4f}" for n, t in times.items()), sep="\t", flush=True)
    print(f"# worst regret {worst:.3f}")


if __name__ == "__main__":
    main()
