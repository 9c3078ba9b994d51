"""The core on the CPU with numpy: golden vectors in every form, dtypes, strides, states, DLPack, threads."""

import threading
import unittest

import common

np = common.need("numpy")

import flashqla  # noqa: E402
from flashqla import Beta, DType, Gate, Handle, Heads, Norm, Op, Problem, Sequences, State, StateLayout  # noqa: E402


def golden_problem(form: dict, x: dict) -> Problem:
    (_, key_heads, key_dim), (_, value_heads, value_dim) = x["q"].shape, x["v"].shape
    return Problem(
        key_heads=key_heads,
        value_heads=value_heads,
        key_dim=key_dim,
        value_dim=value_dim,
        dtype=DType.F64,
        gate=Gate[form["gate"].upper()],
        beta=Beta[form["beta"].upper()],
        beta_scale=float(form["beta_scale"]),
        qk_norm=Norm.L2 if form["l2"] == "1" else Norm.NONE,
        eps=float(form["eps"]),
        head_map=Heads[form["head_map"].upper()],
        state_layout=StateLayout[form["layout"]],
        scale=float(form["scale"]),
    )


def random_call(rng: np.random.Generator, rows: int, tokens: int, heads: int, dim: int, dtype: type = np.float32) -> dict:
    per_row = tokens // rows
    x = {name: rng.normal(size=(rows, per_row, heads, dim)).astype(dtype) for name in ("q", "k", "v")}
    x["gate"] = -rng.random((rows, per_row, heads)).astype(np.float32)
    x["beta"] = rng.random((rows, per_row, heads)).astype(np.float32)
    return x


class Numpy(common.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.handle, cls.rng = Handle("cpu"), np.random.default_rng(1)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.handle.close()

    def problem(self, heads: int = 2, dim: int = 16, **fields: object) -> Problem:
        return Problem(
            **{"key_heads": heads, "value_heads": heads, "key_dim": dim, "value_dim": dim, "dtype": DType.F32, "qk_norm": Norm.L2, **fields}
        )

    def test_golden(self) -> None:
        cases = common.golden()
        self.assertEqual(len(cases), 52)
        for form, x in cases:
            problem, offsets = golden_problem(form, x), x["cu"].astype(np.int32)
            rows = Sequences(len(offsets) - 1, len(x["q"]), 0, offsets)
            gate, raw = {"log": "g", "linear": "alpha", "raw": "a"}[form["gate"]], form["gate"] == "raw"
            inputs = {"q": x["q"], "k": x["k"], "v": x["v"], "gate": x[gate], "beta": x["b"]}
            if raw:
                inputs.update(A_log=x["A_log"], dt_bias=x["dt_bias"])
            state = State()
            if "s0" in x:
                starts = np.where(x["has_s0"] != 0, np.arange(rows.rows), flashqla.SLOT_NONE) if "has_s0" in x else np.arange(rows.rows)
                state = State(read=x["s0"], read_slots=starts.astype(np.int32))
            out, final = np.full_like(x["o"], np.nan), np.full_like(x["sT"], np.nan)
            state.write = final
            self.handle.forward(problem, rows, **inputs, out=out, state=state)
            gradients = {"dq": "q", "dk": "k", "dv": "v", "d_gate": gate, "d_beta": "b"}
            if raw:
                gradients.update(dA_log="A_log", ddt_bias="dt_bias")
            made = {name: np.full_like(x[of], np.nan) for name, of in gradients.items()}
            d_initial = np.full_like(x["sT"], np.nan)
            state.write = None
            self.handle.backward(problem, rows, **inputs, d_out=x["do"], d_final=x["dsT"], **made, d_initial=d_initial, state=state)
            results = [("o", out, x["o"]), ("sT", final, x["sT"])] + [(name, made[name], x[f"d_{of}"]) for name, of in gradients.items()]
            if "d_s0" in x:
                results.append(("d_initial", d_initial, x["d_s0"]))
            for name, have, want in results:
                self.assertClose(have, want, 1e-11, f"{form['name']} {name}")

    def test_equal_rows_and_16_bits(self) -> None:
        x = random_call(self.rng, 3, 3 * 70, 2, 16)
        want = np.empty_like(x["v"])
        self.handle.forward(self.problem(), Sequences(3, 210), **x, out=want)
        flat = {name: a.reshape(210, *a.shape[2:]) for name, a in x.items()}
        have = np.empty_like(flat["v"])
        self.handle.forward(self.problem(), Sequences(3, 210), **flat, out=have)
        self.assertTrue(np.array_equal(have.reshape(want.shape), want))
        half = {name: a.astype(np.float16) for name, a in x.items()}
        out = np.empty_like(half["v"])
        self.handle.forward(self.problem(dtype=DType.F16), Sequences(3, 210), **half, out=out)
        self.assertClose(out, want, 3e-3, "f16")
        # bf16 as uint16: the upper half of a float32
        cut = {name: (a.view(np.uint32) >> 16).astype(np.uint16) if name in "qkv" else a for name, a in x.items()}
        bf16 = np.empty_like(cut["v"])
        self.handle.forward(self.problem(dtype=DType.BF16), Sequences(3, 210), **cut, out=bf16)
        self.assertClose((bf16.astype(np.uint32) << 16).view(np.float32), want, 2e-2, "bf16")
        try:
            import ml_dtypes
        except ImportError:
            return
        named = {name: a.view(ml_dtypes.bfloat16) if name in "qkv" else a for name, a in cut.items()}
        out = np.empty_like(named["v"])
        self.handle.forward(self.problem(dtype=DType.BF16), Sequences(3, 210), **named, out=out)
        self.assertTrue(np.array_equal(out.view(np.uint16), bf16))

    def test_views_of_a_packed_row(self) -> None:
        tokens, heads, dim = 40, 2, 16
        packed = self.rng.normal(size=(tokens, 3 * heads * dim)).astype(np.float32)
        q, k, v = (packed[:, i * heads * dim : (i + 1) * heads * dim].reshape(tokens, heads, dim) for i in range(3))
        self.assertTrue(all(np.shares_memory(a, packed) for a in (q, k, v)))
        ab = self.rng.random((tokens, 2 * heads)).astype(np.float32)
        gate, beta = -ab[:, :heads], ab[:, heads:]
        out, want = np.zeros((tokens, heads, 2 * dim), np.float32), np.empty((tokens, heads, dim), np.float32)
        self.handle.forward(self.problem(), Sequences(1, tokens), q=q, k=k, v=v, gate=gate, beta=beta, out=out[:, :, dim:])
        copies = {"q": q, "k": k, "v": v, "gate": gate, "beta": beta}
        self.handle.forward(self.problem(), Sequences(1, tokens), **{name: a.copy() for name, a in copies.items()}, out=want)
        self.assertTrue(np.array_equal(out[:, :, dim:], want))
        self.assertFalse(out[:, :, :dim].any())
        # A gate that repeats over heads has a stride of 0 there, as it stands.
        one = gate[:, :1]
        self.handle.forward(self.problem(), Sequences(1, tokens), q=q, k=k, v=v, gate=np.broadcast_to(one, gate.shape), beta=beta, out=want)
        have = np.empty_like(want)
        self.handle.forward(self.problem(), Sequences(1, tokens), q=q, k=k, v=v, gate=np.repeat(one, heads, 1), beta=beta, out=have)
        self.assertTrue(np.array_equal(have, want))

    def test_states_continue_rows(self) -> None:
        x = random_call(self.rng, 2, 2 * 50, 2, 16)
        whole, first, second = np.empty_like(x["v"]), np.empty((2, 30, 2, 16), np.float32), np.empty((2, 20, 2, 16), np.float32)
        problem, pool = self.problem(state_layout=StateLayout.VK), np.zeros((5, 2, 16, 16), np.float32)
        self.handle.forward(problem, Sequences(2, 100), **x, out=whole)
        slots = np.array([3, 1], np.int32)
        self.handle.forward(
            problem, Sequences(2, 60), **{n: a[:, :30] for n, a in x.items()}, out=first, state=State(write=pool, write_slots=slots)
        )
        self.assertFalse(pool[[0, 2, 4]].any())
        self.handle.forward(
            problem,
            Sequences(2, 40),
            **{n: a[:, 30:] for n, a in x.items()},
            out=second,
            state=State(read=pool, write=pool, read_slots=slots, write_slots=slots),
        )
        self.assertClose(np.concatenate([first, second], 1), whole, 1e-6)

    def test_query_and_explain(self) -> None:
        info = self.handle.query(self.problem(), Sequences(1, 64))
        self.assertEqual((info.status, info.launches), (flashqla.Status.OK, 0))
        self.assertIn("cpu", info.engine_name)
        self.assertIn("cpu", self.handle.explain(self.problem(), Sequences(1, 64), op=Op.BACKWARD))
        refused = self.handle.query(self.problem(gate=Gate.LOG_PER_KEY), Sequences(1, 64))
        self.assertEqual(refused.status, flashqla.Status.UNSUPPORTED)
        self.assertTrue(refused.reason)
        self.handle.warmup()
        self.assertEqual(self.handle.info.device, -1)
        self.assertRegex(flashqla.version(), r"^\d+\.\d+\.\d+$")
        self.assertIn("flashqla", flashqla.build_info())

    def test_any_dlpack_tensor(self) -> None:
        class Wrapped:  # a tensor of nobody's: only DLPack
            def __init__(self, array: np.ndarray) -> None:
                self.array = array

            def __dlpack__(self, **options: object) -> object:
                return self.array.__dlpack__(**options)

            def __dlpack_device__(self) -> tuple:
                return self.array.__dlpack_device__()

        class Old(Wrapped):  # of before version 1
            def __dlpack__(self) -> object:
                return self.array.__dlpack__()

        x = random_call(self.rng, 1, 20, 2, 16)
        want = np.empty_like(x["v"])
        self.handle.forward(self.problem(), Sequences(1, 20), **x, out=want)
        for kind in (Wrapped, Old):
            out = np.empty_like(want)
            self.handle.forward(self.problem(), Sequences(1, 20), **{name: kind(a) for name, a in x.items()}, out=kind(out))
            self.assertTrue(np.array_equal(out, want))

    def test_threads_share_a_handle(self) -> None:
        x = random_call(self.rng, 2, 80, 2, 16)
        want = np.empty_like(x["v"])
        self.handle.forward(self.problem(), Sequences(2, 80), **x, out=want)
        outs = [np.empty_like(want) for _ in range(8)]

        def work(out: np.ndarray) -> None:
            for _ in range(20):
                self.handle.forward(self.problem(), Sequences(2, 80), **x, out=out)

        threads = [threading.Thread(target=work, args=(out,)) for out in outs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for out in outs:
            self.assertTrue(np.array_equal(out, want))

    def test_log_and_threads_of_a_handle(self) -> None:
        said: list = []
        with Handle("cpu", threads=1, log=lambda level, message: said.append((level, message))) as handle:
            self.assertEqual(handle.info.threads, 1)


if __name__ == "__main__":
    unittest.main()
