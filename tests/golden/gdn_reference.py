#!/usr/bin/env python3
"""Gated DeltaNet token by token in float64 (numpy), with its gradient: the maker of the golden vectors beside this file.
   gdn_reference.py --check      every gradient, every input element, against complex-step derivatives (exit status 1 on failure)
   gdn_reference.py --vectors    write vectors.bin and manifest.tsv beside this file

Tensors: q, k [T,HK,K]  v, o [T,HV,V]  gate, beta [T,HV]  states [N,HV,K,V] ('KV') or [N,HV,V,K] ('VK'); row n = tokens cu[n] to cu[n+1]-1.
"""
import os
import sys

import numpy as np

DEFAULT = dict(gate="log", beta="value", beta_scale=1.0, l2=False, eps=1e-6, map="grouped", layout="KV", scale=None)
FLOOR = np.exp(-40.0)  # alpha = 0 enters as this: its gradient is then exact, and no -inf arises


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softplus(z):  # branches on the real part only, so complex steps pass through
    m = (np.real(z) > 0) * 1.0
    return m * z + np.log1p(np.exp(z * (1 - 2 * m)))


# ---- one row and one value head


def token_forward(q, k, v, g, b, S, s):
    o = np.zeros(v.shape, np.result_type(q, k, v, g, b, S))
    for t in range(len(q)):
        S = np.exp(g[t]) * S
        S = S + np.outer(k[t], b[t] * (v[t] - S.T @ k[t]))
        o[t] = s * (S.T @ q[t])
    return o, S


def token_backward(q, k, v, g, b, S, s, do, D):
    past = [S]  # past[t] = state before token t
    for t in range(len(q)):
        Sp = np.exp(g[t]) * past[-1]
        past.append(Sp + np.outer(k[t], b[t] * (v[t] - Sp.T @ k[t])))
    dq, dk, dv, dg, db = (np.zeros_like(z) for z in (q, k, v, g, b))
    for t in reversed(range(len(q))):
        Sp = np.exp(g[t]) * past[t]
        e = v[t] - Sp.T @ k[t]
        dq[t] = s * (past[t + 1] @ do[t])
        D = D + s * np.outer(q[t], do[t])  # now dL/dS_t
        du = D.T @ k[t]
        db[t], dv[t] = du @ e, b[t] * du
        dk[t] = D @ (b[t] * e) - Sp @ dv[t]
        dSp = D - np.outer(k[t], dv[t])
        dg[t], D = np.sum(dSp * Sp), np.exp(g[t]) * dSp
    return dq, dk, dv, dg, db, D


# ---- the whole operator: rows, heads, gate and beta forms, layouts


def prepare(x, c):
    q, k, norms = x["q"], x["k"], {}
    if c["l2"]:
        norms = {n: 1 / np.sqrt(np.sum(z * z, -1, keepdims=True) + c["eps"]) for n, z in (("q", q), ("k", k))}
        q, k = q * norms["q"], k * norms["k"]
    if c["gate"] == "log":
        g = x["g"]
    elif c["gate"] == "linear":
        g = np.log(np.where(x["alpha"] == 0, FLOOR, x["alpha"]))
    else:
        g = -np.exp(x["A_log"]) * softplus(x["a"] + x["dt_bias"])
    b = c["beta_scale"] * (x["b"] if c["beta"] == "value" else sigmoid(x["b"]))
    return q, k, g, b, norms


def heads(x, c):
    (HK, K), HV, cu = x["q"].shape[1:], x["v"].shape[1], x["cu"]
    s = K**-0.5 if c["scale"] is None else c["scale"]
    for n in range(len(cu) - 1):
        for h in range(HV):
            yield n, h, h // (HV // HK) if c["map"] == "grouped" else h % HK, slice(cu[n], cu[n + 1]), s


def has_start(x, n):
    return x.get("s0") is not None and x.get("has_s0", np.ones(len(x["cu"])))[n]


def start_state(x, c, n, h):
    if not has_start(x, n):
        return np.zeros((x["q"].shape[2], x["v"].shape[2]))
    return x["s0"][n, h] if c["layout"] == "KV" else x["s0"][n, h].T


def forward(x, c):
    q, k, g, b, _ = prepare(x, c)
    o, ST = np.zeros(x["v"].shape, complex), {}
    for n, h, hk, r, s in heads(x, c):
        o[r, h], S = token_forward(q[r, hk], k[r, hk], x["v"][r, h], g[r, h], b[r, h], start_state(x, c, n, h), s)
        ST[n, h] = S if c["layout"] == "KV" else S.T
    ST = np.array([[ST[n, h] for h in range(o.shape[1])] for n in range(len(x["cu"]) - 1)])
    return (o, ST) if np.iscomplexobj(ST) or np.any(o.imag) else (o.real, ST)


def backward(x, c, do, dST):
    q, k, g, b, norms = prepare(x, c)
    dq, dk, dv, dg, db, ds0 = (np.zeros(z.shape) for z in (q, k, x["v"], g, b, dST))
    for n, h, hk, r, s in heads(x, c):
        D = dST[n, h] if c["layout"] == "KV" else dST[n, h].T
        a = token_backward(q[r, hk], k[r, hk], x["v"][r, h], g[r, h], b[r, h], start_state(x, c, n, h), s, do[r, h], D)
        dq[r, hk] += a[0]
        dk[r, hk] += a[1]
        dv[r, h], dg[r, h], db[r, h] = a[2:5]
        if has_start(x, n):
            ds0[n, h] = a[5] if c["layout"] == "KV" else a[5].T
    if c["l2"]:
        dq, dk = (norms[n] * (d - y * np.sum(y * d, -1, keepdims=True)) for n, d, y in (("q", dq, q), ("k", dk, k)))
    out, z = dict(q=dq, k=dk, v=dv, s0=ds0), b / c["beta_scale"]
    out["b"] = c["beta_scale"] * db * (z * (1 - z) if c["beta"] == "logit" else 1)
    if c["gate"] == "log":
        out["g"] = dg
    elif c["gate"] == "linear":
        out["alpha"] = dg / np.where(x["alpha"] == 0, FLOOR, x["alpha"])
    else:
        out["a"] = -dg * np.exp(x["A_log"]) * sigmoid(x["a"] + x["dt_bias"])
        out["A_log"], out["dt_bias"] = np.sum(dg * g, 0), np.sum(out["a"], 0)
    return out


# ---- cases


def make(seed, cu, HK, HV, K, V, gates="soft", state=True, **form):
    r, c = np.random.default_rng(seed), {**DEFAULT, **form}
    T, N = cu[-1], len(cu) - 1
    x = dict(q=r.normal(size=(T, HK, K)), k=r.normal(size=(T, HK, K)), v=r.normal(size=(T, HV, V)), cu=np.array(cu))
    if not c["l2"]:
        x["k"] /= np.linalg.norm(x["k"], axis=-1, keepdims=True)
    g = -softplus(r.normal(size=(T, HV)) - 2)
    if gates == "strong":
        g = np.where(r.random((T, HV)) < 0.3, -(10 ** r.uniform(0, 3, (T, HV))), np.where(r.random((T, HV)) < 0.3, 0, g))
    if c["gate"] == "log":
        x["g"] = g
    elif c["gate"] == "linear":
        x["alpha"] = np.where(r.random((T, HV)) < 0.2, 0, np.exp(g)) if gates == "zero" else np.exp(g)
    else:
        x.update(a=r.normal(size=(T, HV)), A_log=np.log(r.uniform(0.1, 2, HV)), dt_bias=r.normal(size=HV) - 1)
    x["b"] = r.normal(size=(T, HV)) if c["beta"] == "logit" else r.random((T, HV)) * (r.random((T, HV)) > 0.1)
    shape = (N, HV, K, V) if c["layout"] == "KV" else (N, HV, V, K)
    if state:
        x.update(s0=r.normal(size=shape), has_s0=(np.arange(N) % 3 != 2) * 1.0)
    return x, c, r.normal(size=(T, HV, V)), r.normal(size=shape)


def all_forms():
    """Every gate and beta form, with and without L2, both head maps with a layout each."""
    cases = {}
    for gate in ("log", "linear", "raw"):
        for beta, scale in (("value", 1.0), ("value", 2.0), ("logit", 1.0), ("logit", 2.0)):
            for l2 in (False, True):
                for head_map, layout in (("grouped", "KV"), ("tiled", "VK")):
                    name = f"{gate}_{beta}x{scale:g}_{'l2' if l2 else 'plain'}_{head_map}_{layout}"
                    cases[name] = dict(seed=9, cu=[0, 1, 1, 5], HK=2, HV=4, K=3, V=2, gates="zero", gate=gate, beta=beta, beta_scale=scale, l2=l2, map=head_map,
                                       layout=layout)
    return cases


LARGER = {
    "log_grouped_varlen": dict(seed=1, cu=[0, 5, 5, 70, 71], HK=2, HV=4, K=8, V=12),
    "raw_tiled_logit2_l2_VK": dict(seed=2, cu=[0, 33, 40], HK=2, HV=4, K=8, V=6, gate="raw", beta="logit", beta_scale=2.0, l2=True, map="tiled", layout="VK"),
    "linear_zero_tiled": dict(seed=3, cu=[0, 40], HK=1, HV=2, K=6, V=8, gate="linear", gates="zero", map="tiled"),
    "strong_nostate": dict(seed=4, cu=[0, 66], HK=2, HV=2, K=8, V=8, gates="strong", state=False, scale=0.5),
}


def check():
    worst = 0.0
    for name, case in all_forms().items():
        x, c, do, dST = make(**case)
        for key, gradient in backward(x, c, do, dST).items():
            numeric = np.zeros(gradient.shape)
            for i in np.ndindex(gradient.shape):
                y = dict(x)
                y[key] = x[key].astype(complex)
                y[key][i] += 1e-30j
                o, ST = forward(y, c)
                numeric[i] = (np.sum(o * do) + np.sum(ST * dST)).imag / 1e-30
            worst = max(worst, np.max(np.abs(gradient - numeric)) / max(np.max(np.abs(numeric)), 1e-300))
    print(f"gradients against complex steps, {len(all_forms())} forms, every element: {worst:.2e} (limit 1e-11)")
    return not worst <= 1e-11


def vectors():
    here, offset = os.path.dirname(os.path.abspath(__file__)), 0
    with open(os.path.join(here, "vectors.bin"), "wb") as blob, open(os.path.join(here, "manifest.tsv"), "w", encoding="ascii") as manifest:
        for name, case in {**LARGER, **all_forms()}.items():
            x, c, do, dST = make(**case)
            o, ST = forward(x, c)
            gradients = {"d_" + key: z for key, z in backward(x, c, do, dST).items() if key in x}
            scale = x["q"].shape[2] ** -0.5 if c["scale"] is None else c["scale"]
            fields = [name, c["gate"], c["beta"], repr(c["beta_scale"]), str(int(c["l2"])), repr(c["eps"]), c["map"], c["layout"], repr(float(scale))]
            manifest.write("\t".join(["case"] + fields) + "\n")
            for key, z in {**x, "do": do, "dsT": dST, "o": o, "sT": ST, **gradients}.items():
                z = np.ascontiguousarray(np.asarray(z, "<f8"))
                manifest.write(f"array\t{key}\t{offset}\t{'x'.join(map(str, z.shape))}\n")
                blob.write(z.tobytes())
                offset += z.size


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(check())
    if sys.argv[1:] != ["--vectors"]:
        sys.exit(__doc__)
    vectors()
