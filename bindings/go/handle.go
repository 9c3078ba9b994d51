package flashqla

/*
#include "flashqla.h"

extern void fqlaGoLog(uintptr_t user, int32_t level, char *message);

static void write_log(void *user, int32_t level, const char *message) { fqlaGoLog((uintptr_t)user, level, (char *)message); }

// Here, since the number that stands for the log function is no pointer in Go's eyes.
static int32_t create(flashqla_handle **out, int32_t device, int32_t threads, uint64_t flags, uintptr_t log) {
	flashqla_config config = {sizeof config, device, threads, 0, flags, log ? write_log : NULL, (void *)log};
	return flashqla_create(out, &config);
}
*/
import "C"

import (
	"bytes"
	"runtime/cgo"
	"unsafe"
)

// Config is how to make a handle. The zero value is CUDA device 0; most programs want Best or CPU.
type Config struct {
	Device  int // a CUDA ordinal, CPU or Best
	Threads int // CPU: threads that work on one call; 0: all that the process may run on
	Flags   uint64
	Log     func(level LogLevel, message string) // nil: silent. Called from any thread; must not use this package
}

// Handle is a device, what it can do, and (on the CPU) a thread pool.
type Handle struct {
	raw    *C.flashqla_handle
	device int
	life   lifetime
}

// New makes a handle. Best falls back to the CPU, and tells Log why, instead of failing for want of a usable CUDA device.
func New(config Config) (*Handle, error) {
	h := &Handle{}
	var log cgo.Handle
	if config.Log != nil {
		log = cgo.NewHandle(logFunc(config.Log))
	}
	err := check(func() C.int32_t {
		return C.create(&h.raw, int32Of(config.Device), int32Of(config.Threads), C.uint64_t(config.Flags), C.uintptr_t(log))
	})
	h.life.free = func() {
		C.flashqla_destroy(h.raw)
		if log != 0 {
			log.Delete()
		}
	}
	if err != nil {
		h.life.close()
		return nil, err
	}
	info, err := h.Info()
	if err != nil {
		h.Close()
		return nil, err
	}
	h.device = info.Device
	return h, nil
}

// Close frees the handle, once no call uses it any more; what is enqueued goes on.
func (h *Handle) Close() { h.life.close() }

// run makes a call of the library's on the handle and, with a stream, in the context of its device.
func (h *Handle) run(stream Stream, call func() C.int32_t) error {
	if h == nil || !h.life.acquire() {
		return invalid("the handle is closed")
	}
	defer h.life.release()
	if err := stream.acquire(); err != nil {
		return err
	}
	defer stream.release()
	var attached error
	err := check(func() C.int32_t {
		if stream.device != nil {
			if attached = stream.device.attach(); attached != nil {
				return C.FLASHQLA_STATUS_OK
			}
		}
		return call()
	})
	if attached != nil {
		return attached
	}
	return err
}

// Info is what a handle runs on.
type Info struct {
	Device            int // CPU or the CUDA ordinal
	ComputeMajor      int
	ComputeMinor      int
	Multiprocessors   int
	Threads           int
	SharedMemoryBytes uint64
	L2Bytes           uint64
	Name              string // "NVIDIA H100 80GB HBM3", "CPU"
	Image             string // kernels in use
}

// Info tells what the handle runs on.
func (h *Handle) Info() (Info, error) {
	d := C.flashqla_device{struct_size: C.sizeof_flashqla_device}
	if err := h.run(Stream{}, func() C.int32_t { return C.flashqla_device_info(h.raw, &d) }); err != nil {
		return Info{}, err
	}
	return Info{
		Device: int(d.device), ComputeMajor: int(d.compute_major), ComputeMinor: int(d.compute_minor),
		Multiprocessors: int(d.multiprocessors), Threads: int(d.threads),
		SharedMemoryBytes: uint64(d.shared_memory_bytes), L2Bytes: uint64(d.l2_bytes),
		Name: C.GoString(&d.name[0]), Image: C.GoString(&d.image[0]),
	}, nil
}

// QueryInfo is how a call would run, and what memory it wants.
type QueryInfo struct {
	Status         Status // OK or UNSUPPORTED
	Engine         Engine
	Launches       int
	WorkspaceBytes uint64 // aligned to 256, as every Buffer is
	SavedBytes     uint64 // 0: nothing is worth saving
	EngineName     string
	Reason         string // why this engine, or why not at all
}

// Query tells whether and how a call of these bounds would run. It looks at no contents and no lengths.
func (h *Handle) Query(problem *Problem, sequences *Sequences, state *State, op Op) (QueryInfo, error) {
	c := newCall(0, problem, sequences, state)
	if c.err != nil {
		return QueryInfo{}, c.err
	}
	return h.query(c, op)
}

func (h *Handle) query(c *call, op Op) (QueryInfo, error) {
	info := C.flashqla_query_info{struct_size: C.sizeof_flashqla_query_info}
	var reason string
	err := h.run(Stream{}, func() C.int32_t {
		status := C.flashqla_query(h.raw, &c.problem, &c.sequences, c.state, C.int32_t(op), &info)
		if status == C.FLASHQLA_STATUS_OK {
			reason = C.GoString(info.reason) // the thread's next call may replace it
		}
		return status
	})
	if err != nil {
		return QueryInfo{}, err
	}
	return QueryInfo{Status(info.status), Engine(info.engine), int(info.launches), uint64(info.workspace_bytes), uint64(info.saved_bytes),
		C.GoString(info.engine_name), reason}, nil
}

// Explain writes the plan as text, for people.
func (h *Handle) Explain(problem *Problem, sequences *Sequences, state *State, op Op) (string, error) {
	c := newCall(0, problem, sequences, state)
	if c.err != nil {
		return "", c.err
	}
	var text []byte
	err := h.run(Stream{}, func() C.int32_t {
		var needed C.size_t
		if s := C.flashqla_explain(h.raw, &c.problem, &c.sequences, c.state, C.int32_t(op), nil, 0, &needed); s != C.FLASHQLA_STATUS_OK {
			return s
		}
		text = make([]byte, needed+1)
		return C.flashqla_explain(h.raw, &c.problem, &c.sequences, c.state, C.int32_t(op), (*C.char)(unsafe.Pointer(&text[0])), needed, nil)
	})
	end := bytes.IndexByte(text, 0)
	if err != nil || end < 0 {
		return "", err
	}
	return string(text[:end]), nil
}

// Warmup loads every kernel that calls of this problem (nil: any) may need into the context of the stream's device.
func (h *Handle) Warmup(problem *Problem, op Op, stream Stream) error {
	var raw *C.flashqla_problem
	if problem != nil {
		p := problem.raw()
		raw = &p
	}
	return h.run(stream, func() C.int32_t { return C.flashqla_warmup(h.raw, raw, C.int32_t(op)) })
}

// Forward is prefill, decode, verify and mixed batches: it writes args.Out and the states.
func (h *Handle) Forward(problem *Problem, sequences *Sequences, state *State, args *ForwardArgs, workspace Tensor, stream Stream) error {
	c, err := h.begin(problem, sequences, state, args != nil, workspace)
	if err != nil {
		return err
	}
	defer c.release()
	raw := c.forward(args)
	if err := h.refusal(c, OpForward); err != nil {
		return err
	}
	return h.run(stream, func() C.int32_t {
		return C.flashqla_forward(h.raw, &c.problem, &c.sequences, c.state, raw, c.workspace, c.workspaceBytes, stream.raw)
	})
}

// Backward goes from dL/dout and dL/d(final state) to the gradients asked for. Of the states, only the reading side is used.
func (h *Handle) Backward(problem *Problem, sequences *Sequences, state *State, args *BackwardArgs, workspace Tensor, stream Stream) error {
	c, err := h.begin(problem, sequences, state, args != nil, workspace)
	if err != nil {
		return err
	}
	defer c.release()
	raw := c.backward(args)
	if err := h.refusal(c, OpBackward); err != nil {
		return err
	}
	return h.run(stream, func() C.int32_t {
		return C.flashqla_backward(h.raw, &c.problem, &c.sequences, c.state, raw, c.workspace, c.workspaceBytes, stream.raw)
	})
}

func (h *Handle) begin(problem *Problem, sequences *Sequences, state *State, args bool, workspace Tensor) (*call, error) {
	if h == nil {
		return nil, invalid("the handle is nil")
	}
	c := newCall(h.device, problem, sequences, state)
	if c.err == nil && !args {
		c.err = invalid("the arguments are nil")
	}
	if c.err != nil {
		return nil, c.err
	}
	c.common(sequences, state, workspace)
	return c, nil
}

// refusal is why a call is not made. Where a size is wrong the library says more than this package can, and is asked first.
func (h *Handle) refusal(c *call, op Op) error {
	if c.err == nil {
		return nil
	}
	if _, err := h.query(c, op); err != nil {
		return err
	}
	return c.err
}
