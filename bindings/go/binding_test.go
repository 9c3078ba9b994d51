// The package end to end on the CPU: gradients against finite differences through every field, states, refusals, goroutines.
package flashqla

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
)

const (
	testTokens = 6
	testRows   = 2
	testState  = 2 * 3 * 2
)

// numbers are in [-1, 1) and differ from array to array.
func numbers(count, step int) []float64 {
	x := make([]float64, count)
	for i := range x {
		x[i] = float64((i+1)*step%64)/32 - 1
	}
	return x
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}

var (
	cpuDevice = must(Open(CPU))
	cpuHandle = must(New(Config{Device: CPU, Threads: 2}))
)

func upload[T Element](x ...T) *Buffer[T] { return must(Upload(cpuDevice, x)) }

func download[T Element](b *Buffer[T]) []T {
	x := make([]T, b.Len())
	if err := b.Download(x); err != nil {
		panic(err)
	}
	return x
}

// job is two rows packed by offsets, states in pools with slots; all of it in double.
type job struct {
	problem               Problem
	sequences             Sequences
	state                 State
	args                  ForwardArgs
	inputs                [8][]float64 // q, k, v, gate, beta, A_log, dt_bias, the pool that is read
	buffers               [8]*Buffer[float64]
	out, writePool        *Buffer[float64]
	readSlots, writeSlots []int32
	dOut, dFinal          []float64
}

func newJob() *job {
	j := &job{readSlots: []int32{2, 0}, writeSlots: []int32{1, 2}}
	j.problem = must(NewProblem(FormQwen))
	j.problem.KeyHeads, j.problem.ValueHeads, j.problem.KeyDim, j.problem.ValueDim = 1, 2, 3, 2
	j.problem.DType = F64
	const t = testTokens
	j.inputs = [8][]float64{numbers(t*3, 7), numbers(t*3, 11), numbers(t*4, 13), numbers(t*2, 5), numbers(t*2, 3), numbers(2, 9), numbers(2, 17),
		numbers(3*testState, 19)}
	for i, x := range j.inputs {
		j.buffers[i] = upload(x...)
	}
	j.out, j.writePool = must(Alloc[float64](cpuDevice, t*4)), must(Alloc[float64](cpuDevice, 3*testState))
	j.dOut, j.dFinal = numbers(t*4, 23), numbers(testRows*testState, 29)
	j.sequences = Sequences{Rows: testRows, Tokens: t, MaxTokens: 4, Offsets: upload[int64](0, 2, 6).All()}
	j.state = State{Read: j.buffers[7].All(), ReadSlotsCount: 3, ReadSlots: upload(j.readSlots...).All(), Write: j.writePool.All(),
		WriteSlotsCount: 3, WriteSlots: upload(j.writeSlots...).All()}
	b := j.buffers
	j.args = ForwardArgs{Inputs: Inputs{b[0].All(), b[1].All(), b[2].All(), b[3].All(), b[4].All(), b[5].All(), b[6].All()}, Out: j.out.All()}
	return j
}

func (j *job) forward() error {
	return cpuHandle.Forward(&j.problem, &j.sequences, &j.state, &j.args, Tensor{}, Stream{})
}

func (j *job) loss() float64 {
	if err := j.forward(); err != nil {
		panic(err)
	}
	sum := 0.0
	for i, x := range download(j.out) {
		sum += j.dOut[i] * x
	}
	pool := download(j.writePool)
	for n, slot := range j.writeSlots {
		for i := 0; i < testState; i++ {
			sum += j.dFinal[n*testState+i] * pool[int(slot)*testState+i]
		}
	}
	return sum
}

func refused(t *testing.T, err error, status Status, part string) {
	t.Helper()
	e, ok := err.(*Error)
	if !ok {
		t.Errorf("was not refused: %v, wanted %q", err, part)
	} else if e.Status != status || !strings.Contains(e.Message, part) {
		t.Errorf("%v: wanted %v with %q", e, status, part)
	}
}

func TestTheLibraryAndTheHandleTellAboutThemselves(t *testing.T) {
	if LibraryVersion() != Version || !strings.Contains(BuildInfo(), "0.1.0") {
		t.Error(LibraryVersion(), BuildInfo())
	}
	if info := must(cpuHandle.Info()); info.Device != CPU || info.Threads != 2 || info.Name != "CPU" {
		t.Error(info)
	}
	j := newJob()
	query := must(cpuHandle.Query(&j.problem, &j.sequences, &j.state, OpForward))
	if query.Status != StatusOK || query.Launches != 0 || !strings.HasPrefix(query.EngineName, "cpu") || query.Reason == "" {
		t.Error(query)
	}
	if text := must(cpuHandle.Explain(&j.problem, &j.sequences, &j.state, OpBackward)); !strings.Contains(text, "cpu") {
		t.Error(text)
	}
	if err := cpuHandle.Warmup(nil, OpForward, Stream{}); err != nil {
		t.Error(err)
	}
	if err := cpuHandle.Warmup(&j.problem, OpBackward, cpuDevice.DefaultStream()); err != nil {
		t.Error(err)
	}
	if must(NewProblem(FormPlain)) != (Problem{}) || StatusNotWarm.String() != "NOT_WARM" {
		t.Error("plain problem or status name")
	}
}

func TestEveryGradientIsThatOfFiniteDifferences(t *testing.T) {
	j := newJob()
	var gradients [8]*Buffer[float64]
	for i, x := range j.inputs {
		gradients[i] = must(Alloc[float64](cpuDevice, len(x)))
	}
	gradients[7] = must(Alloc[float64](cpuDevice, testRows*testState))
	g := gradients
	args := BackwardArgs{Inputs: j.args.Inputs, DOut: upload(j.dOut...).All(), DFinal: upload(j.dFinal...).All(), DQ: g[0].All(), DK: g[1].All(),
		DV: g[2].All(), DGate: g[3].All(), DBeta: g[4].All(), DALog: g[5].All(), DDtBias: g[6].All(), DInitial: g[7].All()}
	query := must(cpuHandle.Query(&j.problem, &j.sequences, &j.state, OpBackward))
	workspace := must(Alloc[byte](cpuDevice, int(query.WorkspaceBytes)))
	if err := cpuHandle.Backward(&j.problem, &j.sequences, &j.state, &args, workspace.All(), Stream{}); err != nil {
		t.Fatal(err)
	}
	for field := range gradients {
		for at, gradient := range download(gradients[field]) {
			there := at
			if field == 7 {
				there = int(j.readSlots[at/testState])*testState + at%testState
			}
			loss := func(step float64) float64 {
				moved := append([]float64{}, j.inputs[field]...)
				moved[there] += step
				if err := j.buffers[field].Upload(moved); err != nil {
					t.Fatal(err)
				}
				return j.loss()
			}
			expected := (loss(1e-5) - loss(-1e-5)) / 2e-5
			if math.Abs(expected-gradient) > 1e-7 {
				t.Errorf("field %d, element %d: %g, should be %g", field, at, gradient, expected)
			}
		}
		if err := j.buffers[field].Upload(j.inputs[field]); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatTheForwardSavesAndStrides(t *testing.T) {
	plain, wide := newJob(), newJob()
	if err := plain.forward(); err != nil {
		t.Fatal(err)
	}
	var row []float64 // q, k and v of a token side by side
	for i := 0; i < testTokens; i++ {
		row = append(append(append(row, wide.inputs[0][i*3:i*3+3]...), wide.inputs[1][i*3:i*3+3]...), wide.inputs[2][i*4:i*4+4]...)
	}
	packed := upload(row...)
	part := func(first, head int) Tensor { return packed.Slice(first, len(row)-first).Strided(0, 10, int64(head)) }
	wide.args.Q, wide.args.K, wide.args.V = part(0, 3), part(3, 3), part(6, 2)
	query := must(cpuHandle.Query(&wide.problem, &wide.sequences, &wide.state, OpForward))
	workspace, saved := must(Alloc[byte](cpuDevice, int(query.WorkspaceBytes))), must(Alloc[byte](cpuDevice, int(query.SavedBytes)))
	if query.SavedBytes > 0 {
		wide.args.Saved = saved.All()
	}
	stream := must(cpuDevice.NewStream())
	defer stream.Close()
	if err := cpuHandle.Forward(&wide.problem, &wide.sequences, &wide.state, &wide.args, workspace.All(), stream); err != nil {
		t.Fatal(err)
	}
	if err := stream.Synchronize(); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(download(wide.out), download(plain.out)) || !reflect.DeepEqual(download(wide.writePool), download(plain.writePool)) {
		t.Error("strided inputs give other results")
	}
	wide.args.V = packed.Slice(6, len(row)-7).Strided(0, 10, 2)
	refused(t, wide.forward(), StatusInvalidArgument, "args.v has 53 elements of dtype 4: must be 54")
}

func TestCheckpointsPerTokenStatesAndRollback(t *testing.T) {
	problem := Problem{KeyHeads: 1, ValueHeads: 1, KeyDim: 4, ValueDim: 4, DType: F64}
	q, k, v := upload(numbers(128*4, 7)...), upload(numbers(128*4, 11)...), upload(numbers(128*4, 13)...)
	gates, betas := make([]float64, 128), make([]float64, 128)
	for i := range gates {
		gates[i], betas[i] = -0.25, 0.5
	}
	gate, beta := upload(gates...), upload(betas...)
	out, pool := must(Alloc[float64](cpuDevice, 128*4)), must(Alloc[float64](cpuDevice, 5*16))
	run := func(from, count int, state State) {
		t.Helper()
		args := ForwardArgs{Inputs: Inputs{Q: q.Slice(from*4, count*4), K: k.Slice(from*4, count*4), V: v.Slice(from*4, count*4),
			Gate: gate.Slice(from, count), Beta: beta.Slice(from, count)}, Out: out.Slice(from*4, count*4)}
		if err := cpuHandle.Forward(&problem, &Sequences{Rows: 1, Tokens: int64(count)}, &state, &args, Tensor{}, Stream{}); err != nil {
			t.Fatal(err)
		}
	}
	equal := func() {
		t.Helper()
		if all := download(pool); !reflect.DeepEqual(all[:16], all[16:32]) {
			t.Error("states differ")
		}
	}
	slot := func(slots ...int32) Tensor { return upload(slots...).All() }
	write := State{Write: pool.All(), WriteSlotsCount: 5, WriteSlots: slot(0)}
	run(0, 64, write)
	checkpoint := write
	checkpoint.WriteSlots, checkpoint.CheckpointInterval, checkpoint.CheckpointSlots, checkpoint.CheckpointWidth = slot(SlotNone), 64, slot(1), 1
	run(0, 128, checkpoint)
	equal()
	verify := State{Read: pool.All(), ReadSlotsCount: 5, ReadSlots: slot(0), Write: pool.All(), WriteSlotsCount: 5, WriteSlots: slot(1),
		TokenSlots: slot(2, 3, 4), TokenWidth: 3, Flags: StateNoFinal}
	run(64, 3, verify)
	accept := verify
	accept.Accepted, accept.Flags = slot(2), 0
	run(66, 1, accept) // from the state after two of the three
	run(64, 3, State{Read: pool.All(), ReadSlotsCount: 5, ReadSlots: slot(0), Write: pool.All(), WriteSlotsCount: 5, WriteSlots: slot(0)})
	equal()
}

func TestWhatIsWrongIsRefusedWithAReason(t *testing.T) {
	floats := must(Alloc[float32](cpuDevice, 18)).All()
	invalid := func(part string, spoil func(*job)) {
		t.Helper()
		j := newJob()
		spoil(j)
		refused(t, j.forward(), StatusInvalidArgument, part)
	}
	invalid("args.q.dtype = 1: must be F64", func(j *job) { j.args.Q = floats })
	invalid("args.k has 17 elements of dtype 4: must be 18", func(j *job) { j.args.K = j.buffers[1].Slice(1, 17) })
	invalid("args.out has 3", func(j *job) { j.args.Out = j.out.Slice(0, 3) })
	invalid("args.beta.data is NULL: it is required", func(j *job) { j.args.Beta = Tensor{} })
	invalid("args.out.data is NULL: it is required", func(j *job) { j.args.Out = Tensor{} })
	invalid("args.q.stride_token = -3: negative", func(j *job) { j.args.Q = j.args.Q.Strided(0, -3, 3) })
	invalid("args.q has 18", func(j *job) { j.args.Q = j.args.Q.Strided(0, math.MaxInt64, 3) })
	invalid("sequences.tokens = -1", func(j *job) { j.sequences.Tokens = -1 })
	invalid("sequences.tokens = 9223372036854775807", func(j *job) { j.sequences.Tokens = math.MaxInt64 })
	invalid("sequences.rows = -2", func(j *job) { j.sequences.Rows = -2 })
	invalid("sequences.rows = -2147483648", func(j *job) { j.sequences.Rows = 1<<40 + 2 })
	invalid("sequences.offsets has 2 elements", func(j *job) { j.sequences.Offsets = upload[int64](0, 6).All() })
	invalid("sequences.offsets_dtype", func(j *job) { j.sequences.Offsets = floats })
	invalid("problem.key_dim = 999: must be 1 to 256", func(j *job) { j.problem.KeyDim = 999 })
	invalid("problem.key_dim = -3", func(j *job) { j.problem.KeyDim = -3 })
	invalid("problem.dtype = 77", func(j *job) { j.problem.DType = 77 })
	invalid("state.read_slots has 1", func(j *job) { j.state.ReadSlots = upload[int32](1).All() })
	invalid("state.read_slots has 18 elements of dtype 1", func(j *job) { j.state.ReadSlots = floats })
	invalid("state.read_data has 18 elements of dtype 1", func(j *job) { j.state.Read = floats })
	invalid("state.write_data has 35", func(j *job) { j.state.Write = j.writePool.Slice(1, 35) })
	invalid("state.checkpoint_interval = 7", func(j *job) { j.state.CheckpointInterval = 7 })
	invalid("args.q is memory of CUDA device 3: the handle is of the CPU", func(j *job) {
		j.args.Q = RawTensor((*float64)(j.buffers[0].block.data), 18, 3)
	})
	invalid("args.v: its buffer is closed", func(j *job) { j.buffers[2].Close() })
	invalid("state.write_data: its buffer is closed", func(j *job) { j.writePool.Close(); j.writePool.Close() })

	j := newJob()
	j.problem.Gate = GateLogPerKey
	refused(t, j.forward(), StatusUnsupported, "LOG_PER_KEY")
	j = newJob()
	refused(t, cpuHandle.Forward(&j.problem, &j.sequences, &j.state, &j.args, Tensor{}, RawStream(j.out.block.data)), StatusInvalidArgument, "stream")
	refused(t, cpuHandle.Forward(nil, &j.sequences, &j.state, &j.args, Tensor{}, Stream{}), StatusInvalidArgument, "nil")
	refused(t, cpuHandle.Forward(&j.problem, nil, &j.state, &j.args, Tensor{}, Stream{}), StatusInvalidArgument, "nil")
	refused(t, cpuHandle.Backward(&j.problem, &j.sequences, &j.state, nil, Tensor{}, Stream{}), StatusInvalidArgument, "nil")
	_, err := NewProblem(99)
	refused(t, err, StatusInvalidArgument, "form = 99")
	_, err = New(Config{Device: -7})
	refused(t, err, StatusInvalidArgument, "config.device = -7")
	_, err = New(Config{Device: CPU, Threads: -1})
	refused(t, err, StatusInvalidArgument, "config.threads = -1")
	refused(t, cpuHandle.Warmup(nil, 9, Stream{}), StatusInvalidArgument, "op = 9")

	handle := must(New(Config{Device: CPU, Threads: 1}))
	handle.Close()
	handle.Close()
	_, err = handle.Info()
	refused(t, err, StatusInvalidArgument, "the handle is closed")
	refused(t, handle.Forward(&j.problem, &j.sequences, &j.state, &j.args, Tensor{}, Stream{}), StatusInvalidArgument, "the handle is closed")
	refused(t, (*Handle)(nil).Forward(&j.problem, &j.sequences, nil, &j.args, Tensor{}, Stream{}), StatusInvalidArgument, "nil")

	device := must(Open(CPU))
	buffer := must(Alloc[float32](device, 4))
	device.Close()
	refused(t, device.Synchronize(), StatusInvalidArgument, "the device is closed")
	_, err = Alloc[float32](device, 4)
	refused(t, err, StatusInvalidArgument, "the device is closed")
	refused(t, buffer.Upload(make([]float32, 5)), StatusInvalidArgument, "5 elements for a buffer of 4")
	buffer.Close()
	refused(t, buffer.Download(make([]float32, 4)), StatusInvalidArgument, "the buffer is closed")
	_, err = Alloc[float32](cpuDevice, -1)
	refused(t, err, StatusInvalidArgument, "-1 elements")
	if _, err = Open(12345); err == nil {
		t.Error("there is no CUDA device 12345")
	}
}

func TestGoroutinesShareAHandleAndKeepTheirErrorsApart(t *testing.T) {
	first := newJob()
	if err := first.forward(); err != nil {
		t.Fatal(err)
	}
	expected := download(first.out)
	var group sync.WaitGroup
	for i := 0; i < 16; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			for round := 0; round < 10; round++ {
				j := newJob()
				if err := j.forward(); err != nil || !reflect.DeepEqual(download(j.out), expected) {
					t.Error("another result", err)
				}
				j.problem.KeyDim = 1000 + i
				refused(t, j.forward(), StatusInvalidArgument, fmt.Sprintf("key_dim = %d:", 1000+i))
			}
		}(i)
	}
	group.Wait()
}

func TestClosingWhileOthersCallIsSafe(t *testing.T) {
	handle := must(New(Config{Device: CPU, Threads: 1}))
	j := newJob()
	var group sync.WaitGroup
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			out := must(Alloc[float64](cpuDevice, testTokens*4))
			args := j.args
			args.Out = out.All()
			for {
				err := handle.Forward(&j.problem, &j.sequences, nil, &args, Tensor{}, Stream{})
				if err != nil {
					refused(t, err, StatusInvalidArgument, "closed")
					return
				}
			}
		}()
	}
	j.buffers[0].Close()
	handle.Close()
	group.Wait()
}

func TestTheLogIsCalled(t *testing.T) {
	said := ""
	handle := must(New(Config{Device: Best, Threads: 1, Log: func(level LogLevel, message string) { said = fmt.Sprintf("%d %s", level, message) }}))
	defer handle.Close()
	if must(handle.Info()).Device == CPU && !strings.HasPrefix(said, "1 no usable CUDA device") {
		t.Error(said)
	}
}

// Structs and constants are C's own through cgo; what could be missing is a function or a constant.
func TestEveryFunctionAndConstantOfTheHeaderIsUsed(t *testing.T) {
	folder := os.Getenv("FLASHQLA_ABI")
	if folder == "" {
		folder = "../../tests/abi"
	}
	var source strings.Builder
	files, _ := filepath.Glob("*.go")
	for _, name := range files {
		if !strings.HasSuffix(name, "_test.go") {
			source.Write(must(os.ReadFile(name)))
		}
	}
	missing := func(name string) bool { return !strings.Contains(source.String(), "C."+name) }
	replaced := map[string]bool{ // by literals with struct_size, and by flashqla_last_error on the thread of the call
		"flashqla_config_init": true, "flashqla_sequences_init": true, "flashqla_state_init": true, "flashqla_forward_args_init": true,
		"flashqla_backward_args_init": true, "flashqla_last_error_copy": true, "flashqla_create": true,
	}
	for _, name := range strings.Fields(string(must(os.ReadFile(filepath.Join(folder, "symbols.txt"))))) {
		if !replaced[name] && missing(name) {
			t.Error(name)
		}
	}
	values := 0
	for _, line := range strings.Split(string(must(os.ReadFile(filepath.Join(folder, "layout.c")))), "\n") {
		if strings.HasPrefix(line, "VALUE(") {
			values++
			if name := line[len("VALUE("):strings.Index(line, ",")]; missing(name) {
				t.Error(name)
			}
		}
	}
	if values < 40 {
		t.Error("the table of constants was not read")
	}
}

// With the fake driver of bindings/cpp/tests in the place of libcuda.so.1, which counts what is given back.
func TestDeviceMemoryOfCUDA(t *testing.T) {
	if os.Getenv("FLASHQLA_FAKE_DRIVER") == "" {
		t.Skip("no fake driver")
	}
	_, err := Open(7)
	refused(t, err, StatusCUDAError, "INVALID_DEVICE (101)")
	device := must(Open(0))
	some := numbers(100, 7)
	buffer := must(Upload(device, some))
	zeros := must(Alloc[float32](device, 100))
	var group sync.WaitGroup
	for i := 0; i < 8; i++ { // on whatever threads: each call sets the context
		group.Add(1)
		go func() {
			defer group.Done()
			if !reflect.DeepEqual(download(buffer), some) || !reflect.DeepEqual(download(zeros), make([]float32, 100)) {
				t.Error("other numbers came back")
			}
		}()
	}
	group.Wait()
	stream := must(device.NewStream())
	if err := stream.Synchronize(); err != nil {
		t.Error(err)
	}
	if err := device.Synchronize(); err != nil {
		t.Error(err)
	}
	j := newJob()
	j.args.Q = buffer.All()
	refused(t, j.forward(), StatusInvalidArgument, "args.q is memory of CUDA device 0: the handle is of the CPU")
	j = newJob()
	refused(t, cpuHandle.Forward(&j.problem, &j.sequences, &j.state, &j.args, Tensor{}, stream), StatusInvalidArgument, "stream")
	device.Close() // before what lies on it: it lives on
	stream.Close()
	refused(t, stream.Synchronize(), StatusInvalidArgument, "closed")
	buffer.Close()
	zeros.Close()
}
