"""The libraries that compare.py measures beside ours: FlashQLA (TileLang), FlashInfer (CuTe DSL), FLA (Triton).

Each method takes a case (compare.Case) and gives callable(); what a library does not offer it has no method for, or raises NotOffered.
Outputs are laid out as compare.py wants them: states [K, V], per-token states [N, T, HV, K, V].
"""
import torch


class NotOffered(Exception):
    """This library does not do that job."""


def rows(case, *names):
    """[1, tokens, heads, ...] as [rows, tokens of a row, heads, ...]: decode and verify."""
    return [getattr(case, n)[0].view(case.n, case.t // case.n, *getattr(case, n).shape[2:]) for n in names]


class Qla:
    def __init__(self):
        from flash_qla import chunk_gated_delta_rule_fwd as f, chunk_gated_delta_rule_bwd as b
        self.f, self.b = f, b

    def forward(self, c):
        def run():
            r = self.f(c.q, c.k, c.v, c.g, c.beta, scale=c.scale, initial_state=c.h0, output_final_state=True, output_h=False,
                       cu_seqlens=c.cu, auto_cp=True)
            return r[2], r[4]
        return run

    def backward(self, c):
        r = self.f(c.q, c.k, c.v, c.g, c.beta, scale=c.scale, initial_state=c.h0, output_final_state=True, output_h=False,
                   cu_seqlens=c.cu, auto_cp=True)
        return lambda: self.gradients(c, r[0], r[1])

    def gradients(self, c, g, a, cache=None):
        dq, dk, dv, db, dg, dh0 = self.b(c.q, c.k, c.v, g, c.beta, a, c.do, c.dht, scale=c.scale, initial_state=c.h0, cu_seqlens=c.cu,
                                         auto_cp=True, cp_cache=cache)
        return dict(dq=dq, dk=dk, dv=dv, dg=dg, dbeta=db, dh0=dh0)

    def step(self, c):
        def run():  # as its autograd function does it: the forward keeps what context parallelism found out
            g, a, _, _, _, cache = self.f(c.q, c.k, c.v, c.g, c.beta, scale=c.scale, initial_state=c.h0, output_final_state=True,
                                          output_h=False, cu_seqlens=c.cu, auto_cp=True, enable_fwd_cp_cache=True, is_train=True)
            return self.gradients(c, g, a, cache)
        return run


class FlashInfer:
    def __init__(self):
        from flashinfer.gdn_prefill import chunk_gated_delta_rule as f
        self.f = f

    def forward(self, c):
        q, k, v = (getattr(c, n)[0].contiguous() for n in "qkv")
        alpha, beta = c.g[0].exp().contiguous(), c.beta[0].contiguous()
        h0 = c.h0.transpose(-1, -2).contiguous() if c.h0 is not None else None
        o, ht = torch.empty_like(v), c.states()
        def run():
            self.f(q=q, k=k, v=v, g=alpha, beta=beta, scale=c.scale, initial_state=h0, output_final_state=True,
                   cu_seqlens=c.cu, output=o, output_state=ht, max_seqlen=max(c.seqlens))
            return o[None], ht.transpose(-1, -2)
        return run

    def decode(self, c):
        """Raw gates, L2 norm on, in place. The output is given, so that no call clears one first."""
        from flashinfer.gdn_decode import gated_delta_rule_decode_pretranspose as f
        q, k, v, a, b = rows(c, "q", "k", "v", "a", "b")
        o, pool = torch.empty_like(v), c.h0.transpose(-1, -2).contiguous()
        where = dict(state=pool)
        if c.state_dtype == torch.bfloat16:  # without slots it would make some in each call
            where = dict(state=None, initial_state=pool, initial_state_indices=torch.arange(c.n, dtype=torch.int32, device=pool.device))
        def run():
            f(q, k, v, A_log=c.A_log, a=a, dt_bias=c.dt_bias, b=b, scale=c.scale, output=o, use_qk_l2norm=True, backend="flashinfer", **where)
            return o, pool.transpose(-1, -2)
        return run

    def verify(self, c):
        """Per-token states go to a buffer [rows, tokens, HV, V, K]; the state itself stays."""
        from flashinfer.gdn_decode import gated_delta_rule_decode_pretranspose as f
        q, k, v, a, b = rows(c, "q", "k", "v", "a", "b")
        o, pool = torch.empty_like(v), c.h0.transpose(-1, -2).contiguous()
        slots = torch.arange(c.n, dtype=torch.int32, device=pool.device)
        each = torch.empty(c.n, c.t // c.n, *pool.shape[1:], dtype=pool.dtype, device=pool.device)
        def run():
            f(q, k, v, None, c.A_log, a, c.dt_bias, b, scale=c.scale, output=o, use_qk_l2norm=True, initial_state=pool,
              initial_state_indices=slots, intermediate_states_buffer=each, disable_state_update=True, backend="flashinfer")
            return o, each.transpose(-1, -2)
        return run


class Fla:
    def __init__(self):
        from fla.ops.gated_delta_rule.chunk import chunk_gated_delta_rule_fwd as f, chunk_gated_delta_rule_bwd as b
        self.f, self.b = f, b

    def forward(self, c):
        cu = c.cu.long()
        def run():
            r = self.f(c.q, c.k, c.v, c.g, c.beta, scale=c.scale, initial_state=c.h0, output_final_state=True, cu_seqlens=cu)
            return r[1], r[3]
        return run

    def backward(self, c):
        cu = c.cu.long()
        r = self.f(c.q, c.k, c.v, c.g, c.beta, scale=c.scale, initial_state=c.h0, output_final_state=True, cu_seqlens=cu)
        return lambda: self.gradients(c, cu, r[0], r[2])

    def gradients(self, c, cu, g, a):
        r = self.b(c.q, c.k, c.v, g, c.beta, a, c.scale, c.h0, c.do, c.dht, cu_seqlens=cu)
        return dict(dq=r[0], dk=r[1], dv=r[2], dbeta=r[3], dg=r[4], dh0=r[5])

    def step(self, c):
        cu = c.cu.long()
        def run():
            r = self.f(c.q, c.k, c.v, c.g, c.beta, scale=c.scale, initial_state=c.h0, output_final_state=True, cu_seqlens=cu)
            return self.gradients(c, cu, r[0], r[2])
        return run

    def decode(self, c):
        """Log gates, L2 norm on; writes a new state, in f32. (It has no verify: no state but the last is stored.)"""
        if c.state_dtype != torch.float32:
            raise NotOffered
        from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule as f
        q, k, v, g, b = rows(c, "q", "k", "v", "g", "beta")
        def run():
            return f(q, k, v, g=g, beta=b, scale=c.scale, initial_state=c.h0, output_final_state=True, use_qk_l2norm_in_kernel=True)
        return run

    @staticmethod
    def untuned():
        """The two candidates of each kernel that take least shared memory instead of all: for errors, where its speed is no matter."""
        from triton.runtime.autotuner import Autotuner
        prune = Autotuner.prune_configs
        Autotuner.prune_configs = lambda self, kw: sorted(prune(self, kw), key=lambda x: (x.num_stages, x.num_warps))[:2]


PEERS = {"qla": Qla, "flashinfer": FlashInfer, "fla": Fla}
