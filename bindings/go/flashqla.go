// Package flashqla is Gated DeltaNet through flashqla's C ABI. flashqla.h is the reference: fields and rules are the same here.
//
// Errors are values: a status other than OK is an *Error with the library's text, which is copied on the thread of the call. Memory is
// never Go's: a Buffer is memory of a device, or of C, with its length, dtype and device, so that a call which would reach past an end or
// into another device's memory is refused before it starts.
//
// A Handle, Device or Buffer may be used from any number of goroutines, and closed while others use it: calls under way go on, later ones
// are refused. Calls that overlap in time need their own workspace and outputs. On CUDA a call only enqueues, and a Buffer waits for the
// device before it is freed.
package flashqla

/*
#include "flashqla.h"
*/
import "C"

import (
	"fmt"
	"runtime"
)

// Error is what went wrong: a status, and a line that names the field, its value and the rule.
type Error struct {
	Status  Status
	Message string
}

func (e *Error) Error() string { return e.Status.String() + ": " + e.Message }

func invalid(format string, args ...any) error {
	return &Error{StatusInvalidArgument, fmt.Sprintf(format, args...)}
}

// check runs a call of the library's and what must follow it on one thread: the library's messages belong to the thread.
func check(call func() C.int32_t) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if status := call(); status != C.FLASHQLA_STATUS_OK {
		return &Error{Status(status), C.GoString(C.flashqla_last_error())}
	}
	return nil
}

// LibraryVersion is major * 10000 + minor * 100 + patch.
func LibraryVersion() int { return int(C.flashqla_version()) }

// BuildInfo is one line: version, images inside, toolkit, compiler.
func BuildInfo() string { return C.GoString(C.flashqla_build_info()) }

// Problem is what is computed. The zero value is the plain mathematical form, but for the sizes.
type Problem struct {
	KeyHeads    int // HK: heads of q and k
	ValueHeads  int // HV: heads of v, out, gate, beta and states; a multiple of HK
	KeyDim      int // K, 1 to 256
	ValueDim    int // V, 1 to 256
	DType       DType
	StateDType  DType // of states in memory; default F32, or F64 where DType is F64
	HeadMap     HeadMap
	Gate        GateForm
	Beta        BetaForm
	QKNorm      Norm
	StateLayout StateLayout
	Engine      Engine
	BetaScale   float64 // 0 = 1; 2 allows negative eigenvalues
	Scale       float64 // of the output; 0 = 1 / sqrt(K)
	Eps         float64 // of the L2 norm; 0 = 1e-6
	Flags       uint64  // Problem*
}

// NewProblem is the library's starting point of that name.
func NewProblem(form Form) (Problem, error) {
	var p C.flashqla_problem
	if err := check(func() C.int32_t { return C.flashqla_problem_init(&p, C.sizeof_flashqla_problem, C.int32_t(form)) }); err != nil {
		return Problem{}, err
	}
	return Problem{
		KeyHeads: int(p.key_heads), ValueHeads: int(p.value_heads), KeyDim: int(p.key_dim), ValueDim: int(p.value_dim),
		DType: DType(p.dtype), StateDType: DType(p.state_dtype), HeadMap: HeadMap(p.head_map), Gate: GateForm(p.gate),
		Beta: BetaForm(p.beta), QKNorm: Norm(p.qk_norm), StateLayout: StateLayout(p.state_layout), Engine: Engine(p.engine),
		BetaScale: float64(p.beta_scale), Scale: float64(p.scale), Eps: float64(p.eps), Flags: uint64(p.flags),
	}, nil
}

// int32Of narrows without wrapping round: what does not fit becomes a value that the library refuses.
func int32Of(x int) C.int32_t {
	if int(int32(x)) != x {
		return -1 << 31
	}
	return C.int32_t(x)
}

func (p *Problem) raw() C.flashqla_problem {
	return C.flashqla_problem{
		struct_size: C.sizeof_flashqla_problem,
		key_heads:   int32Of(p.KeyHeads), value_heads: int32Of(p.ValueHeads), key_dim: int32Of(p.KeyDim), value_dim: int32Of(p.ValueDim),
		dtype: C.int32_t(p.DType), state_dtype: C.int32_t(p.StateDType), head_map: C.int32_t(p.HeadMap), gate: C.int32_t(p.Gate),
		beta: C.int32_t(p.Beta), qk_norm: C.int32_t(p.QKNorm), state_layout: C.int32_t(p.StateLayout), engine: C.int32_t(p.Engine),
		beta_scale: C.double(p.BetaScale), scale: C.double(p.Scale), eps: C.double(p.Eps), flags: C.uint64_t(p.Flags),
	}
}

// Sequences is how tokens form rows.
type Sequences struct {
	Rows      int    // N
	Tokens    int64  // in all
	MaxTokens int64  // no row is longer; 0 = Tokens / Rows without offsets, Tokens with them
	Offsets   Tensor // [N + 1], I32 or I64; NULL: rows of equal length
}

func (s *Sequences) raw() C.flashqla_sequences {
	return C.flashqla_sequences{
		struct_size: C.sizeof_flashqla_sequences,
		rows:        int32Of(s.Rows), tokens: C.int64_t(s.Tokens), max_tokens: C.int64_t(s.MaxTokens),
		offsets: s.Offsets.address(), offsets_dtype: C.int32_t(s.Offsets.dtype),
	}
}

// State is where states are read and written. Pools hold elements of Problem.StateDType, tables are I32; NULL fields are not used.
type State struct {
	Flags              uint64 // StateNoFinal
	Read               Tensor // [slots] of [HV, K, V] or [HV, V, K]; NULL: every row starts from zero
	ReadSlotsCount     int64  // 0 = N
	ReadSlotStride     int64  // elements; 0 = packed
	ReadSlots          Tensor // [N]; NULL: row n reads slot n
	Write              Tensor // may be the same memory as Read
	WriteSlotsCount    int64
	WriteSlotStride    int64
	WriteSlots         Tensor // [N]; NULL: row n writes slot n
	CheckpointInterval int64  // a multiple of 64; 0: no checkpoints
	CheckpointSlots    Tensor // [N, CheckpointWidth]
	CheckpointWidth    int64
	TokenSlots         Tensor // [N, TokenWidth]
	TokenWidth         int64
	Accepted           Tensor // [N]
}

func (s *State) raw() *C.flashqla_state {
	if s == nil {
		return nil
	}
	table := func(t Tensor) *C.int32_t { return (*C.int32_t)(t.address()) }
	return &C.flashqla_state{
		struct_size: C.sizeof_flashqla_state,
		flags:       C.uint64_t(s.Flags),
		read_data:   s.Read.address(), read_slots_count: C.int64_t(s.ReadSlotsCount), read_slot_stride: C.int64_t(s.ReadSlotStride),
		read_slots: table(s.ReadSlots),
		write_data: s.Write.address(), write_slots_count: C.int64_t(s.WriteSlotsCount), write_slot_stride: C.int64_t(s.WriteSlotStride),
		write_slots:         table(s.WriteSlots),
		checkpoint_interval: C.int64_t(s.CheckpointInterval), checkpoint_slots: table(s.CheckpointSlots),
		checkpoint_width: C.int64_t(s.CheckpointWidth),
		token_slots:      table(s.TokenSlots), token_width: C.int64_t(s.TokenWidth), accepted: table(s.Accepted),
	}
}

// Inputs are what forward and backward read alike.
type Inputs struct {
	Q      Tensor // [tokens, HK, K]
	K      Tensor // [tokens, HK, K]
	V      Tensor // [tokens, HV, V]
	Gate   Tensor // [tokens, HV]
	Beta   Tensor // [tokens, HV]
	ALog   Tensor // [HV], raw gate only
	DtBias Tensor // [HV], raw gate only
}

// ForwardArgs are the tensors of Handle.Forward.
type ForwardArgs struct {
	Inputs
	Out   Tensor // [tokens, HV, V]
	Saved Tensor // for a later backward: SavedBytes of Handle.Query, or NULL
}

// BackwardArgs are the tensors of Handle.Backward. Gradients that are NULL are not computed.
type BackwardArgs struct {
	Inputs
	DOut     Tensor // [tokens, HV, V]
	DFinal   Tensor // by row, [N, HV, K, V] or [N, HV, V, K]; NULL: zero
	DQ, DK   Tensor // [tokens, HK, K]
	DV       Tensor // [tokens, HV, V]
	DGate    Tensor // [tokens, HV]
	DBeta    Tensor // [tokens, HV]
	DALog    Tensor // [HV], raw gate only
	DDtBias  Tensor // [HV], raw gate only
	DInitial Tensor // by row, as DFinal
	Saved    Tensor // what the forward saved, or NULL
}
