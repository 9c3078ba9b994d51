package flashqla

/*
#cgo CFLAGS: -I${SRCDIR}/../../include
#cgo LDFLAGS: -lflashqla -ldl
#include "flashqla.h"
*/
import "C"

// Version is FLASHQLA_VERSION of the header this was built with; LibraryVersion is the library's.
const Version = C.FLASHQLA_VERSION

// Status is what a function returns.
type Status int32

// The statuses, as in flashqla.h.
const (
	StatusOK                Status = C.FLASHQLA_STATUS_OK
	StatusInvalidArgument   Status = C.FLASHQLA_STATUS_INVALID_ARGUMENT
	StatusUnsupported       Status = C.FLASHQLA_STATUS_UNSUPPORTED
	StatusWorkspaceTooSmall Status = C.FLASHQLA_STATUS_WORKSPACE_TOO_SMALL
	StatusNoDriver          Status = C.FLASHQLA_STATUS_NO_DRIVER
	StatusDriverTooOld      Status = C.FLASHQLA_STATUS_DRIVER_TOO_OLD
	StatusNoImage           Status = C.FLASHQLA_STATUS_NO_IMAGE
	StatusNoContext         Status = C.FLASHQLA_STATUS_NO_CONTEXT
	StatusWrongDevice       Status = C.FLASHQLA_STATUS_WRONG_DEVICE
	StatusNotWarm           Status = C.FLASHQLA_STATUS_NOT_WARM
	StatusOutOfMemory       Status = C.FLASHQLA_STATUS_OUT_OF_MEMORY
	StatusCUDAError         Status = C.FLASHQLA_STATUS_CUDA_ERROR
	StatusInternal          Status = C.FLASHQLA_STATUS_INTERNAL
)

// String is the status's name.
func (s Status) String() string { return C.GoString(C.flashqla_status_name(C.int32_t(s))) }

// DType is an element type. The zero value is the default told at each field.
type DType int32

// The element types. F64 is for CPU handles; I32 and I64 are for offsets and tables.
const (
	DefaultDType DType = C.FLASHQLA_DTYPE_DEFAULT
	F32          DType = C.FLASHQLA_DTYPE_F32
	BF16         DType = C.FLASHQLA_DTYPE_BF16
	F16          DType = C.FLASHQLA_DTYPE_F16
	F64          DType = C.FLASHQLA_DTYPE_F64
	I32          DType = C.FLASHQLA_DTYPE_I32
	I64          DType = C.FLASHQLA_DTYPE_I64
)

// Devices beside the CUDA ordinals, which count from 0.
const (
	CPU  = C.FLASHQLA_DEVICE_CPU
	Best = C.FLASHQLA_DEVICE_BEST // the current context's device, else CUDA device 0, else the CPU
)

// HeadMap tells which key head a value head reads.
type HeadMap int32

// The head maps.
const (
	HeadsGrouped HeadMap = C.FLASHQLA_HEADS_GROUPED // h / (HV / HK)
	HeadsTiled   HeadMap = C.FLASHQLA_HEADS_TILED   // h % HK, as in GGUF files
)

// GateForm tells what Gate holds.
type GateForm int32

// The gate forms. GateLogPerKey is not supported.
const (
	GateLog       GateForm = C.FLASHQLA_GATE_LOG
	GateLinear    GateForm = C.FLASHQLA_GATE_LINEAR
	GateRaw       GateForm = C.FLASHQLA_GATE_RAW
	GateLogPerKey GateForm = C.FLASHQLA_GATE_LOG_PER_KEY
)

// BetaForm tells what Beta holds.
type BetaForm int32

// The beta forms.
const (
	BetaValue BetaForm = C.FLASHQLA_BETA_VALUE
	BetaLogit BetaForm = C.FLASHQLA_BETA_LOGIT
)

// Norm tells what is done to q and k first.
type Norm int32

// The norms.
const (
	NormNone Norm = C.FLASHQLA_NORM_NONE
	NormL2   Norm = C.FLASHQLA_NORM_L2
)

// StateLayout is the layout of each head's state.
type StateLayout int32

// The state layouts.
const (
	StateKV StateLayout = C.FLASHQLA_STATE_KV
	StateVK StateLayout = C.FLASHQLA_STATE_VK
)

// Values of slot tables beside slots.
const (
	SlotPad  int32 = C.FLASHQLA_SLOT_PAD  // the row is skipped
	SlotNone int32 = C.FLASHQLA_SLOT_NONE // read: start from zero; write: store nothing
)

// Engine is a way to compute.
type Engine int32

// The engines. All but EngineAuto are for tests and for bit parity between calls.
const (
	EngineAuto            Engine = C.FLASHQLA_ENGINE_AUTO
	EngineRecurrent       Engine = C.FLASHQLA_ENGINE_RECURRENT
	EngineChunked         Engine = C.FLASHQLA_ENGINE_CHUNKED
	EngineFused           Engine = C.FLASHQLA_ENGINE_FUSED
	EngineContextParallel Engine = C.FLASHQLA_ENGINE_CONTEXT_PARALLEL
)

// Op is an operation, where one is asked for.
type Op int32

// The operations.
const (
	OpForward  Op = C.FLASHQLA_OP_FORWARD
	OpBackward Op = C.FLASHQLA_OP_BACKWARD
)

// Form is a starting point of NewProblem.
type Form int32

// The forms.
const (
	FormPlain Form = C.FLASHQLA_FORM_PLAIN // log gate, beta as a value, no norm, KV state
	FormQwen  Form = C.FLASHQLA_FORM_QWEN  // raw gate, beta as a logit, L2 norm, VK state
)

// LogLevel tells how much a message matters.
type LogLevel int32

// The log levels.
const (
	LogError LogLevel = C.FLASHQLA_LOG_ERROR
	LogInfo  LogLevel = C.FLASHQLA_LOG_INFO
)

// Bits of Problem.Flags.
const (
	ProblemKeysBounded        uint64 = C.FLASHQLA_PROBLEM_KEYS_BOUNDED
	ProblemApproximateWarmup  uint64 = C.FLASHQLA_PROBLEM_APPROXIMATE_WARMUP
	ProblemBatchInvariant     uint64 = C.FLASHQLA_PROBLEM_BATCH_INVARIANT
	ProblemAllow16BitOperands uint64 = C.FLASHQLA_PROBLEM_ALLOW_16BIT_OPERANDS
)

// StateNoFinal, in State.Flags: do not store final states.
const StateNoFinal uint64 = C.FLASHQLA_STATE_NO_FINAL
