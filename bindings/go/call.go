package flashqla

/*
#include "flashqla.h"
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// call is one call's C structs, the memory that it holds, and whether that is as long as the call reaches. Extents are floating-point
// numbers: exact for any memory there is, and nothing overflows. What is negative passes: the library refuses it.
type call struct {
	problem         C.flashqla_problem
	sequences       C.flashqla_sequences
	state           *C.flashqla_state
	device          int
	stateDType      DType
	n, rows, tokens float64
	hk, hv, k, v    float64
	workspace       unsafe.Pointer
	workspaceBytes  C.uint64_t
	held            []*lifetime
	err             error // the first refusal
}

func newCall(device int, p *Problem, s *Sequences, st *State) *call {
	if p == nil || s == nil {
		return &call{err: invalid("the problem or the sequences are nil")}
	}
	c := &call{problem: p.raw(), sequences: s.raw(), state: st.raw(), device: device, stateDType: p.StateDType}
	if c.stateDType == DefaultDType && p.DType == F64 {
		c.stateDType = F64
	} else if c.stateDType == DefaultDType {
		c.stateDType = F32
	}
	c.n, c.rows = float64(s.Rows), float64(s.Rows)
	if !s.Offsets.isNull() {
		c.rows = 1
	}
	if s.Rows != 0 {
		c.tokens = float64(s.Tokens) / c.rows
	}
	c.hk, c.hv, c.k, c.v = float64(p.KeyHeads), float64(p.ValueHeads), float64(p.KeyDim), float64(p.ValueDim)
	return c
}

func (c *call) refuse(format string, args ...any) {
	if c.err == nil {
		c.err = invalid(format, args...)
	}
}

func (c *call) release() {
	for _, life := range c.held {
		life.release()
	}
}

// hold keeps a tensor's memory until the call is over.
func (c *call) hold(name string, t Tensor) {
	if t.isNull() {
		return
	}
	if !t.block.life.acquire() {
		c.refuse("%s: its buffer is closed", name)
		return
	}
	c.held = append(c.held, &t.block.life)
	if t.block.device != c.device {
		place := func(device int) string {
			if device < 0 {
				return "the CPU"
			}
			return fmt.Sprintf("CUDA device %d", device)
		}
		c.refuse("%s is memory of %s: the handle is of %s", name, place(t.block.device), place(c.device))
	}
}

func (c *call) fits(name string, t Tensor, dtype DType, reach float64) {
	c.hold(name, t)
	if !t.isNull() && (t.dtype != dtype || float64(t.elements) < reach) {
		c.refuse("%s has %d elements of dtype %d: must be %.0f of dtype %d", name, t.elements, t.dtype, reach, dtype)
	}
}

func (c *call) walk(name string, t Tensor, rows, tokens, heads, dim float64) C.flashqla_tensor {
	reach := rows * tokens * heads * dim
	if (t.row != 0 || t.token != 0 || t.head != 0) && rows*tokens != 0 {
		reach = (rows-1)*float64(t.row) + (tokens-1)*float64(t.token) + (heads-1)*float64(t.head) + dim
	}
	c.fits(name, t, t.dtype, reach)
	return C.flashqla_tensor{
		data: t.address(), dtype: C.int32_t(t.dtype),
		stride_row: C.int64_t(t.row), stride_token: C.int64_t(t.token), stride_head: C.int64_t(t.head),
	}
}

// perToken is [tokens, heads, dim], perHead [HV], perRow [N, HV, K, V].
func (c *call) perToken(name string, t Tensor, heads, dim float64) C.flashqla_tensor {
	return c.walk(name, t, c.rows, c.tokens, heads, dim)
}

func (c *call) perHead(name string, t Tensor) C.flashqla_tensor {
	return c.walk(name, t, 1, 1, c.hv, 1)
}

func (c *call) perRow(name string, t Tensor) C.flashqla_tensor {
	return c.walk(name, t, c.n, 1, c.hv, c.k*c.v)
}

// bytes is workspace or saved: the library knows how long they must be.
func (c *call) bytes(name string, t Tensor) (unsafe.Pointer, C.uint64_t) {
	c.hold(name, t)
	size := map[DType]int{DefaultDType: 1, F32: 4, BF16: 2, F16: 2, F64: 8, I32: 4, I64: 8}[t.dtype]
	return t.address(), C.uint64_t(t.elements * size)
}

func (c *call) pool(name string, t Tensor, slots, stride int64) {
	packed, count, step := c.hv*c.k*c.v, float64(slots), float64(stride)
	if slots == 0 {
		count = c.n
	}
	if stride == 0 {
		step = packed
	}
	reach := 0.0
	if count != 0 {
		reach = (count-1)*step + packed
	}
	c.fits(name, t, c.stateDType, reach)
}

func (c *call) common(s *Sequences, st *State, workspace Tensor) {
	c.fits("sequences.offsets", s.Offsets, s.Offsets.dtype, c.n+1)
	if st != nil {
		c.pool("state.read_data", st.Read, st.ReadSlotsCount, st.ReadSlotStride)
		c.pool("state.write_data", st.Write, st.WriteSlotsCount, st.WriteSlotStride)
		c.fits("state.read_slots", st.ReadSlots, I32, c.n)
		c.fits("state.write_slots", st.WriteSlots, I32, c.n)
		c.fits("state.checkpoint_slots", st.CheckpointSlots, I32, c.n*float64(st.CheckpointWidth))
		c.fits("state.token_slots", st.TokenSlots, I32, c.n*float64(st.TokenWidth))
		c.fits("state.accepted", st.Accepted, I32, c.n)
	}
	c.workspace, c.workspaceBytes = c.bytes("workspace", workspace)
}

func (c *call) forward(a *ForwardArgs) *C.flashqla_forward_args {
	raw := &C.flashqla_forward_args{struct_size: C.sizeof_flashqla_forward_args}
	raw.q = c.perToken("args.q", a.Q, c.hk, c.k)
	raw.k = c.perToken("args.k", a.K, c.hk, c.k)
	raw.v = c.perToken("args.v", a.V, c.hv, c.v)
	raw.gate = c.perToken("args.gate", a.Gate, c.hv, 1)
	raw.beta = c.perToken("args.beta", a.Beta, c.hv, 1)
	raw.A_log = c.perHead("args.A_log", a.ALog)
	raw.dt_bias = c.perHead("args.dt_bias", a.DtBias)
	raw.out = c.perToken("args.out", a.Out, c.hv, c.v)
	raw.saved, raw.saved_bytes = c.bytes("args.saved", a.Saved)
	return raw
}

func (c *call) backward(a *BackwardArgs) *C.flashqla_backward_args {
	raw := &C.flashqla_backward_args{struct_size: C.sizeof_flashqla_backward_args}
	raw.q = c.perToken("args.q", a.Q, c.hk, c.k)
	raw.k = c.perToken("args.k", a.K, c.hk, c.k)
	raw.v = c.perToken("args.v", a.V, c.hv, c.v)
	raw.gate = c.perToken("args.gate", a.Gate, c.hv, 1)
	raw.beta = c.perToken("args.beta", a.Beta, c.hv, 1)
	raw.A_log = c.perHead("args.A_log", a.ALog)
	raw.dt_bias = c.perHead("args.dt_bias", a.DtBias)
	raw.d_out = c.perToken("args.d_out", a.DOut, c.hv, c.v)
	raw.d_final = c.perRow("args.d_final", a.DFinal)
	raw.dq = c.perToken("args.dq", a.DQ, c.hk, c.k)
	raw.dk = c.perToken("args.dk", a.DK, c.hk, c.k)
	raw.dv = c.perToken("args.dv", a.DV, c.hv, c.v)
	raw.d_gate = c.perToken("args.d_gate", a.DGate, c.hv, 1)
	raw.d_beta = c.perToken("args.d_beta", a.DBeta, c.hv, 1)
	raw.dA_log = c.perHead("args.dA_log", a.DALog)
	raw.ddt_bias = c.perHead("args.ddt_bias", a.DDtBias)
	raw.d_initial = c.perRow("args.d_initial", a.DInitial)
	raw.saved, raw.saved_bytes = c.bytes("args.saved", a.Saved)
	return raw
}
