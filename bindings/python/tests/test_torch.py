"""flashqla.torch: test_torch.py [cpu|cuda]. Values and gradients against a token-by-token float64 reference, gradcheck, torch.compile,
CUDA graphs, streams and threads, bad input."""

import sys
import threading
import unittest
from typing import Optional

import common

torch = common.need("torch")
DEVICE = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "cpu"
if DEVICE == "cuda" and not torch.cuda.is_available():
    common.skip("torch sees no CUDA device")
try:
    import flashqla.torch as ft
except ImportError as missing:
    common.skip(str(missing))

import torch.utils.checkpoint  # noqa: E402
from torch import library  # noqa: E402

import flashqla  # noqa: E402

CUDA = unittest.skipUnless(DEVICE == "cuda", "needs a CUDA device")
GRADIENTS = ("q", "k", "v", "g", "beta", "initial_state", "A_log", "dt_bias")


def reference(
    q,
    k,
    v,
    g,
    beta,
    scale=None,
    initial_state=None,
    l2norm=False,
    cu_seqlens=None,
    A_log=None,
    dt_bias=None,
    beta_logit=False,
    beta_scale=1.0,
    v_first=False,
) -> tuple:
    """Token by token, one row after the other, in the dtype of the inputs."""
    if l2norm:
        q, k = (x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    if A_log is not None:
        g = -A_log.exp() * torch.nn.functional.softplus(g + dt_bias)
    beta = beta_scale * (beta.sigmoid() if beta_logit else beta)
    group = v.shape[2] // q.shape[2]
    q, k = (x.repeat_interleave(group, 2) for x in (q, k))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if cu_seqlens is None:
        rows = [(n, 0, q.shape[1]) for n in range(q.shape[0])]
    else:
        rows = [(0, int(a), int(b)) for a, b in zip(cu_seqlens[:-1], cu_seqlens[1:])]
    outs, finals = [], []
    for n, (batch, begin, end) in enumerate(rows):
        S = q.new_zeros(v.shape[2], q.shape[3], v.shape[3]) if initial_state is None else initial_state[n]
        S = S.transpose(1, 2) if v_first and initial_state is not None else S
        for t in range(begin, end):
            S = g[batch, t].exp()[:, None, None] * S
            u = beta[batch, t][:, None] * (v[batch, t] - torch.einsum("hkv,hk->hv", S, k[batch, t]))
            S = S + k[batch, t][:, :, None] * u[:, None, :]
            outs.append(scale * torch.einsum("hkv,hk->hv", S, q[batch, t]))
        finals.append(S.transpose(1, 2) if v_first else S)
    return torch.stack(outs).reshape(v.shape), torch.stack(finals)


def make(
    batch: int = 2,
    tokens: int = 100,
    heads: int = 2,
    value_heads: int = 4,
    K: int = 128,
    V: int = 128,
    dtype: torch.dtype = torch.bfloat16,
    rows: Optional[int] = None,
    raw: bool = False,
    seed: int = 0,
) -> dict:
    """Inputs as a model has them. g and A_log, dt_bias in float32, as models keep them (float64 where all is)."""
    torch.manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = {
        "q": torch.randn(batch, tokens, heads, K),
        "k": torch.randn(batch, tokens, heads, K),
        "v": torch.randn(batch, tokens, value_heads, V),
        "beta": torch.randn(batch, tokens, value_heads) if raw else torch.rand(batch, tokens, value_heads),
    }
    x = {name: t.to(dtype) for name, t in x.items()}
    x["g"] = (
        torch.randn(batch, tokens, value_heads, dtype=wide)
        if raw
        else -torch.nn.functional.softplus(torch.randn(batch, tokens, value_heads, dtype=wide) - 2)
    )
    x["initial_state"] = torch.randn(rows or batch, value_heads, K, V, dtype=wide)
    if raw:
        x["A_log"], x["dt_bias"] = torch.randn(value_heads, dtype=wide), torch.randn(value_heads, dtype=wide)
    return {name: t.to(DEVICE).requires_grad_() for name, t in x.items()}


def doubles(x: dict) -> dict:
    return {name: t.detach().double().cpu().requires_grad_(t.requires_grad) for name, t in x.items()}


class Torch(common.TestCase):
    def compare(
        self,
        x: dict,
        bound: float,
        function=ft.chunk_gated_delta_rule,
        forms: Optional[dict] = None,
        theirs: Optional[dict] = None,
        **others,
    ) -> None:
        """Output, final state and every gradient against the reference, and the ops against torch's own checks of registration."""
        out, final = function(**x, output_final_state=True, **(forms or {}), **others)
        y = doubles(x)
        cu = others.get("cu_seqlens")
        want, want_final = reference(**y, cu_seqlens=None if cu is None else cu.cpu(), **(theirs or {}))
        self.assertEqual(out.dtype, x["q"].dtype)
        self.assertEqual(final.dtype, torch.float64 if x["q"].dtype == torch.float64 else torch.float32)
        self.assertClose(out, want, bound, "out")
        self.assertClose(final, want_final, bound, "final state")
        torch.manual_seed(7)
        d_out, d_final = torch.randn(want.shape, dtype=torch.float64), torch.randn(want_final.shape, dtype=torch.float64)
        d_out = d_out.to(out.dtype)
        torch.autograd.backward([out, final], [d_out.to(DEVICE), d_final.to(DEVICE, final.dtype)])
        torch.autograd.backward([want, want_final], [d_out.double(), d_final.to(final.dtype).double()])
        for name in GRADIENTS:
            if name in x:
                self.assertEqual(x[name].grad.dtype, x[name].dtype)
                self.assertClose(x[name].grad, y[name].grad, 2 * bound, f"d_{name}")

    # Relative L2 against float64. bf16 rounds to 4e-3, and its chunks round more than once.
    BOUNDS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 1.5e-2}

    def dtypes(self) -> list:
        return [torch.float32, torch.float16, torch.bfloat16] + ([torch.float64] if DEVICE == "cpu" else [])

    def test_values_and_gradients(self) -> None:
        for dtype in self.dtypes():
            for tokens in (1, 100, 257):
                with self.subTest(dtype=dtype, tokens=tokens):
                    self.compare(
                        make(tokens=tokens, dtype=dtype),
                        self.BOUNDS[dtype],
                        forms={"use_qk_l2norm_in_kernel": True},
                        theirs={"l2norm": True},
                    )

    def test_saving_for_the_backward(self) -> None:
        for dtype in (torch.float16, torch.bfloat16):
            with self.subTest(dtype=dtype):
                self.compare(
                    make(tokens=257, dtype=dtype),
                    self.BOUNDS[dtype],
                    forms={"use_qk_l2norm_in_kernel": True, "save_for_backward": True},
                    theirs={"l2norm": True},
                )

    def test_raw_gates_logits_and_layout(self) -> None:
        x = make(raw=True, dtype=torch.float32, K=32, V=48)
        x["initial_state"] = x["initial_state"].detach().transpose(2, 3).contiguous().requires_grad_()
        self.compare(
            x,
            2e-5,
            forms={
                "use_qk_l2norm_in_kernel": True,
                "use_gate_in_kernel": True,
                "use_beta_sigmoid_in_kernel": True,
                "allow_neg_eigval": True,
                "state_v_first": True,
                "scale": 0.3,
            },
            theirs={"l2norm": True, "beta_logit": True, "beta_scale": 2.0, "v_first": True, "scale": 0.3},
        )

    def test_fused_recurrent(self) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            self.compare(
                make(dtype=dtype),
                self.BOUNDS[dtype],
                ft.fused_recurrent_gated_delta_rule,
                {"use_qk_l2norm_in_kernel": True},
                {"l2norm": True},
            )
        x = make(dtype=torch.float32, K=16, V=16)
        k = torch.nn.functional.normalize(x["k"].detach(), dim=-1)
        out, final = ft.fused_recurrent_gated_delta_rule(x["q"], k, x["v"])  # neither gate nor beta: plain delta rule
        self.assertIsNone(final)
        y = doubles(x)
        want, _ = reference(y["q"], k.double().cpu(), y["v"], torch.zeros_like(y["g"]), torch.ones_like(y["beta"]))
        self.assertClose(out, want, 2e-5)

    def test_rows_of_cu_seqlens(self) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            for index in (torch.int32, torch.int64):
                cu = torch.tensor([0, 70, 70, 71, 200], dtype=index)
                for others in ({}, {"max_seqlen": 129}, {"cu_seqlens_cpu": cu}):
                    self.compare(
                        make(batch=1, tokens=200, rows=4, dtype=dtype),
                        self.BOUNDS[dtype],
                        cu_seqlens=cu.to(DEVICE),
                        **others,
                        forms={"use_qk_l2norm_in_kernel": True},
                        theirs={"l2norm": True},
                    )

    def test_tokens_outside_every_row_are_zeros(self) -> None:
        x = make(batch=1, tokens=100, rows=1, K=16, V=16, dtype=torch.float32)
        out, _ = ft.chunk_gated_delta_rule(**x, use_qk_l2norm_in_kernel=True, cu_seqlens=torch.tensor([10, 60], device=DEVICE))
        out.sum().backward()
        for t in (out, x["q"].grad, x["v"].grad, x["g"].grad):
            self.assertFalse(t[:, :10].any() or t[:, 60:].any())
            self.assertTrue(t[:, 10:60].any())

    def test_views(self) -> None:
        torch.manual_seed(3)
        packed = torch.randn(2, 80, 3 * 2 * 64, device=DEVICE)
        q, k, v = (t.reshape(2, 80, 2, 64) for t in packed.split(2 * 64, -1))
        self.assertEqual(q.data_ptr(), packed.data_ptr())
        g, beta = -torch.rand(2, 80, 2, device=DEVICE), torch.rand(2, 80, 2, device=DEVICE)
        want, _ = ft.chunk_gated_delta_rule(*(t.contiguous() for t in (q, k, v)), g, beta, use_qk_l2norm_in_kernel=True)
        columns = packed.transpose(1, 2).contiguous().transpose(1, 2)  # as a convolution leaves them: the last dimension is not contiguous
        for source in (packed, columns):
            have, _ = ft.chunk_gated_delta_rule(
                *(t.reshape(2, 80, 2, 64) for t in source.split(2 * 64, -1)), g, beta, use_qk_l2norm_in_kernel=True
            )
            self.assertClose(have, want, 1e-6)
        have, _ = ft.chunk_gated_delta_rule(q, k, v, g[:, :, :1].expand(-1, -1, 2), beta, use_qk_l2norm_in_kernel=True)
        want, _ = ft.chunk_gated_delta_rule(q, k, v, g[:, :, :1].repeat(1, 1, 2), beta, use_qk_l2norm_in_kernel=True)
        self.assertTrue(torch.equal(have, want))

    def test_only_the_gradients_asked_for(self) -> None:
        x = {name: t.detach() for name, t in make(dtype=torch.float32, K=16, V=16).items()}
        x["v"].requires_grad_()
        out, final = ft.chunk_gated_delta_rule(**x, output_final_state=True)
        self.assertTrue(out.requires_grad and final.requires_grad)
        final.sum().backward()  # nothing comes through out
        self.assertEqual(sum(t.grad is not None for t in x.values()), 1)
        y = doubles(x)
        reference(**y)[1].sum().backward()
        self.assertClose(x["v"].grad, y["v"].grad, 1e-4)

    def test_checkpointing(self) -> None:
        x, y = (make(tokens=70, K=16, V=16, dtype=torch.float32) for _ in range(2))
        out = torch.utils.checkpoint.checkpoint(lambda: ft.chunk_gated_delta_rule(**x)[0], use_reentrant=False)
        want, _ = ft.chunk_gated_delta_rule(**y)
        for result in (out, want):
            result.square().sum().backward()
        for name in x:
            self.assertTrue(torch.equal(x[name].grad, y[name].grad))

    def test_gradients_of_gradients_are_refused(self) -> None:
        x = make(tokens=5, K=16, V=16, dtype=torch.float32)
        out, _ = ft.chunk_gated_delta_rule(**x)
        (dq,) = torch.autograd.grad(out.sum(), x["q"], create_graph=True)
        with self.assertRaises(NotImplementedError):
            dq.sum().backward()

    def test_nothing(self) -> None:
        for batch, tokens in ((2, 0), (0, 5), (0, 0)):
            x = make(batch=batch, tokens=tokens, K=16, V=16, dtype=torch.float32)
            out, final = ft.chunk_gated_delta_rule(**x, output_final_state=True)
            self.assertEqual(out.shape, x["v"].shape)
            self.assertTrue(torch.equal(final, x["initial_state"]))
            (out.sum() + final.sum()).backward()
            self.assertTrue(torch.equal(x["initial_state"].grad, torch.ones_like(final)))

    @unittest.skipUnless(DEVICE == "cpu", "float64 is the CPU's")
    def test_gradcheck(self) -> None:
        x = make(batch=1, tokens=5, heads=1, value_heads=2, K=3, V=4, dtype=torch.float64, raw=True)

        def call(*tensors: torch.Tensor) -> tuple:
            return ft.chunk_gated_delta_rule(
                **dict(zip(x, tensors)),
                output_final_state=True,
                use_qk_l2norm_in_kernel=True,
                use_gate_in_kernel=True,
                use_beta_sigmoid_in_kernel=True,
            )

        self.assertTrue(torch.autograd.gradcheck(call, tuple(x.values())))

    def test_opcheck(self) -> None:
        x = make(tokens=20, K=16, V=16, dtype=torch.float32)
        ordered = [x[n] for n in ("q", "k", "v", "g", "beta")] + [None, None, x["initial_state"], None]
        library.opcheck(torch.ops.flashqla.gated_delta_rule.default, (*ordered, 0, 0.0, True, False, 1.0, False, 0, True, 0))

    def test_compile(self) -> None:
        """Whole graph, static and dynamic shapes, forward and backward: the same bits as without."""
        for dynamic in (False, True):
            torch._dynamo.reset()

            def step(q, k, v, g, beta, initial_state):
                out, final = ft.chunk_gated_delta_rule(
                    q * 1.5, k, v, g, beta, initial_state=initial_state, output_final_state=True, use_qk_l2norm_in_kernel=True
                )
                return out, final

            compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="inductor" if DEVICE == "cuda" else "aot_eager")
            for tokens in (65, 90):
                x, y = (make(tokens=tokens, K=64, V=64, dtype=torch.float32) for _ in range(2))
                have, want = compiled(**x), step(**y)
                for results in (have, want):
                    (results[0].square().sum() + results[1].sum()).backward()
                for a, b in zip((*have, *(x[name].grad for name in x)), (*want, *(y[name].grad for name in x))):
                    self.assertTrue(torch.equal(a, b))

    def test_compile_with_offsets(self) -> None:
        torch._dynamo.reset()
        cu = torch.tensor([0, 30, 90], device=DEVICE)
        function = torch.compile(
            lambda x, cu: ft.chunk_gated_delta_rule(**x, use_qk_l2norm_in_kernel=True, cu_seqlens=cu, max_seqlen=60)[0],
            fullgraph=True,
            backend="inductor" if DEVICE == "cuda" else "aot_eager",
        )
        x = make(batch=1, rows=2, tokens=90, K=64, V=64, dtype=torch.float32)
        want, _ = ft.chunk_gated_delta_rule(**x, use_qk_l2norm_in_kernel=True, cu_seqlens=cu)
        self.assertTrue(torch.equal(function(x, cu), want))

    def test_threads(self) -> None:
        x = {name: t.detach() for name, t in make().items()}
        want, _ = ft.chunk_gated_delta_rule(**x, use_qk_l2norm_in_kernel=True)
        failed: list = []

        def work() -> None:
            try:
                stream = torch.cuda.Stream() if DEVICE == "cuda" else None
                with torch.cuda.stream(stream):
                    for _ in range(10):
                        have, _ = ft.chunk_gated_delta_rule(**x, use_qk_l2norm_in_kernel=True)
                    if stream:
                        stream.synchronize()
                if not torch.equal(have, want):
                    failed.append("other bits")
            except Exception as error:  # told below, by the thread that tests
                failed.append(repr(error))

        if DEVICE == "cuda":
            torch.cuda.synchronize()
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failed, [])

    def test_refusals(self) -> None:
        x = {name: t.detach() for name, t in make(K=16, V=16, dtype=torch.float32).items()}

        def refused(kind: type, words: str, call=ft.chunk_gated_delta_rule, **others) -> None:
            with self.assertRaises(kind) as caught:
                call(**{**x, **others})
            self.assertIn(words, str(caught.exception))

        refused(ValueError, "head_first", head_first=True)
        refused(NotImplementedError, "cp_context", cp_context=object())
        refused(TypeError, "colour", colour=1)
        refused(ValueError, "batch of 2", cu_seqlens=torch.tensor([0, 100]))
        refused(ValueError, "A_log", use_gate_in_kernel=True)
        refused(ValueError, "allow_neg_eigval", allow_neg_eigval=True)
        refused(ValueError, "must have 4 dimensions", q=x["q"][0])
        refused(NotImplementedError, "gk", ft.fused_recurrent_gated_delta_rule, gk=x["k"])
        refused(flashqla.InvalidArgument, "args.k.dtype", k=x["k"].half())
        refused(flashqla.InvalidArgument, "args.k: shape", k=x["k"][:, 1:])
        refused(flashqla.InvalidArgument, "args.beta: shape", beta=x["beta"][..., :2])
        refused(flashqla.InvalidArgument, "state.read: shape", initial_state=x["initial_state"][..., 1:])
        refused(TypeError, "torch.int32", q=x["q"].int())
        if DEVICE == "cuda":
            refused(flashqla.InvalidArgument, "memory of the CPU", k=x["k"].cpu())
            refused(flashqla.FlashqlaError, "F64", **{name: t.double() for name, t in x.items()})

    @CUDA
    def test_cuda_graph(self) -> None:
        """Forward and backward in one graph, replayed on other data and other offsets: the same bits as without."""
        first, second = (make(batch=1, tokens=300, rows=3, seed=seed) for seed in (1, 2))
        offsets = [torch.tensor(o, device=DEVICE, dtype=torch.int32) for o in ([0, 100, 101, 300], [0, 0, 256, 290])]
        d_out = torch.randn_like(first["v"])

        def step(x: dict, cu: torch.Tensor) -> list:
            out, final = ft.chunk_gated_delta_rule(**x, output_final_state=True, use_qk_l2norm_in_kernel=True, cu_seqlens=cu)
            return [out, final, *torch.autograd.grad((out, final), list(x.values()), (d_out, torch.ones_like(final)))]

        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            step(first, offsets[0])
        stream.synchronize()
        place = {name: t.detach().clone().requires_grad_() for name, t in first.items()}
        cu, graph = offsets[0].clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = step(place, cu)
        for x, o in ((first, offsets[0]), (second, offsets[1])):
            with torch.no_grad():
                for name, t in x.items():
                    place[name].copy_(t)
            cu.copy_(o)
            graph.replay()
            torch.cuda.synchronize()
            for have, want in zip(results, step(x, o)):
                self.assertTrue(torch.equal(have, want))

    @CUDA
    def test_first_call_on_a_thread_without_context(self) -> None:
        from flashqla.device import _Driver

        x, failed = {name: t.detach() for name, t in make().items()}, []

        def work() -> None:
            try:
                _Driver()("cuCtxSetCurrent", None)
                ft.chunk_gated_delta_rule(**x, use_qk_l2norm_in_kernel=True)
            except Exception as error:  # told below, by the thread that tests
                failed.append(repr(error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        self.assertEqual(failed, [])

    @CUDA
    def test_core_takes_torch_and_needs_a_workspace(self) -> None:
        x = {name: t.detach() for name, t in make().items()}
        with flashqla.Handle("cuda") as handle:
            problem = flashqla.Problem(
                key_heads=2, value_heads=4, key_dim=128, value_dim=128, qk_norm=flashqla.Norm.L2, engine=flashqla.Engine.RECURRENT
            )
            rows, out = flashqla.Sequences(2, 200), torch.empty_like(x["v"])
            tensors = {"q": x["q"], "k": x["k"], "v": x["v"], "gate": x["g"], "beta": x["beta"], "out": out}
            state = flashqla.State(read=x["initial_state"])
            stream = torch.cuda.current_stream().cuda_stream
            workspace = torch.empty(handle.query(problem, rows, state).workspace_bytes, dtype=torch.uint8, device=DEVICE)
            handle.forward(problem, rows, **tensors, state=state, workspace=workspace, stream=stream)
            want, _ = ft.fused_recurrent_gated_delta_rule(**x, use_qk_l2norm_in_kernel=True)
            self.assertTrue(torch.equal(out, want))
            gradients = {"d_out": out, "dq": torch.empty_like(x["q"])}
            del tensors["out"]
            problem.engine = flashqla.Engine.AUTO
            with self.assertRaises(flashqla.WorkspaceTooSmall):
                handle.backward(problem, rows, **tensors, **gradients, state=state, stream=stream)
            handle.backward(
                problem,
                rows,
                **tensors,
                **gradients,
                state=state,
                stream=stream,
                workspace=lambda size: torch.empty(size, dtype=torch.uint8, device=DEVICE),
            )
            self.assertTrue(bool(gradients["dq"].isfinite().all()))


if __name__ == "__main__":
    unittest.main()
