// The shortest whole use of flashqla, on the best device there is. Two rows of three tokens, in f32, from an empty state; prints a checksum
// that is the same in every language's example.
package main

import (
	"fmt"
	"os"

	"flashqla"
)

const (
	rows    = 2
	tokens  = 6
	heads   = 2
	dim     = 16
	values  = tokens * heads * dim
	scalars = tokens * heads
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// numbers is device memory with count numbers in it: step/64 apart, going round in [-scale, scale).
func numbers(device *flashqla.Device, count, step int, scale float32) *flashqla.Buffer[float32] {
	host := make([]float32, count)
	for i := range host {
		host[i] = scale * (float32(i*step%64)/32 - 1)
	}
	memory, err := flashqla.Upload(device, host)
	check(err)
	return memory
}

func main() {
	handle, err := flashqla.New(flashqla.Config{Device: flashqla.Best})
	check(err)
	defer handle.Close()
	info, err := handle.Info()
	check(err)
	device, err := flashqla.Open(info.Device)
	check(err)
	defer device.Close()

	problem, err := flashqla.NewProblem(flashqla.FormQwen)
	check(err)
	problem.KeyHeads, problem.ValueHeads = heads, heads
	problem.KeyDim, problem.ValueDim = dim, dim
	problem.DType = flashqla.F32
	sequences := flashqla.Sequences{Rows: rows, Tokens: tokens}

	q, k, v := numbers(device, values, 7, 1), numbers(device, values, 11, 1), numbers(device, values, 13, 1)
	gate, beta := numbers(device, scalars, 5, 2), numbers(device, scalars, 3, 2)
	aLog, dtBias := numbers(device, heads, 9, 1), numbers(device, heads, 17, 1)
	out := numbers(device, values, 0, 0)
	for _, buffer := range []*flashqla.Buffer[float32]{q, k, v, gate, beta, aLog, dtBias, out} {
		defer buffer.Close()
	}
	var args flashqla.ForwardArgs
	args.Q, args.K, args.V = q.All(), k.All(), v.All()
	args.Gate, args.Beta = gate.All(), beta.All()
	args.ALog, args.DtBias = aLog.All(), dtBias.All()
	args.Out = out.All()

	query, err := handle.Query(&problem, &sequences, nil, flashqla.OpForward)
	check(err)
	workspace, err := flashqla.Alloc[byte](device, int(query.WorkspaceBytes))
	check(err)
	defer workspace.Close()
	check(handle.Forward(&problem, &sequences, nil, &args, workspace.All(), device.DefaultStream()))
	check(device.Synchronize())

	result := make([]float32, values)
	check(out.Download(result))
	sum := 0.0
	for i, x := range result {
		sum += float64(x) * float64(i%7+1)
	}
	fmt.Printf("%s, %s: checksum %.4f\n", info.Name, query.EngineName, sum)
}
