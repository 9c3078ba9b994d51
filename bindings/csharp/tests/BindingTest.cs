// BindingTest.cs: the binding end to end on the CPU: gradients against finite differences through every field, states, refusals, threads.
using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using Flashqla;

internal static class Check
{
    internal static void That(bool condition, string what)
    {
        if (!condition) throw new Exception(what);
    }

    internal static void Refused(Status status, string part, Action call)
    {
        try
        {
            call();
        }
        catch (FlashqlaException e)
        {
            That(e.Status == status && e.Message.Contains(part), e.Status + ": " + e.Message + "; wanted " + part);
            return;
        }
        throw new Exception("was not refused: " + part);
    }

    internal static void Throws<E>(Action call) where E : Exception
    {
        try
        {
            call();
        }
        catch (E)
        {
            return;
        }
        throw new Exception("no " + typeof(E));
    }
}

// Two rows packed by offsets, states in pools with slots; all of it in double, in arrays.
internal sealed class Job
{
    internal const int Tokens = 6, Rows = 2, StateSize = 2 * 3 * 2;
    internal readonly Problem Problem = new Problem(Form.Qwen) { KeyHeads = 1, ValueHeads = 2, KeyDim = 3, ValueDim = 2, DType = DType.F64 };
    internal readonly Sequences Sequences;
    internal readonly State State;
    internal readonly ForwardArgs Args;
    internal readonly double[][] Inputs; // q, k, v, gate, beta, A_log, dt_bias, the pool that is read
    internal readonly double[] Out = new double[Tokens * 4], WritePool = new double[3 * StateSize];
    internal readonly double[] DOut = Numbers(Tokens * 4, 23), DFinal = Numbers(Rows * StateSize, 29);
    internal readonly int[] ReadSlots = { 2, 0 }, WriteSlots = { 1, 2 };

    internal Job()
    {
        Inputs = new[]
        {
            Numbers(Tokens * 3, 7), Numbers(Tokens * 3, 11), Numbers(Tokens * 4, 13), Numbers(Tokens * 2, 5), Numbers(Tokens * 2, 3), Numbers(2, 9),
            Numbers(2, 17), Numbers(3 * StateSize, 19),
        };
        Sequences = new Sequences { Rows = Rows, Tokens = Tokens, MaxTokens = 4, Offsets = new long[] { 0, 2, 6 } };
        State = new State
        {
            Read = Inputs[7], ReadSlotsCount = 3, ReadSlots = ReadSlots, Write = WritePool, WriteSlotsCount = 3, WriteSlots = WriteSlots,
        };
        Args = new ForwardArgs { Out = Out };
        SetInputs(Args);
    }

    // In [-1, 1), and different from array to array.
    internal static double[] Numbers(int count, int step)
    {
        return Enumerable.Range(1, count).Select(i => (double)(i * step % 64) / 32 - 1).ToArray();
    }

    internal void SetInputs(Inputs to)
    {
        to.Q = Inputs[0];
        to.K = Inputs[1];
        to.V = Inputs[2];
        to.Gate = Inputs[3];
        to.Beta = Inputs[4];
        to.ALog = Inputs[5];
        to.DtBias = Inputs[6];
    }

    internal void Forward()
    {
        BindingTest.Cpu.Forward(Problem, Sequences, State, Args);
    }

    internal double Loss()
    {
        Forward();
        double sum = Out.Select((x, i) => x * DOut[i]).Sum();
        for (int n = 0; n < Rows; n++)
            for (int i = 0; i < StateSize; i++) sum += DFinal[n * StateSize + i] * WritePool[WriteSlots[n] * StateSize + i];
        return sum;
    }
}

internal static class BindingTest
{
    internal static readonly Handle Cpu = new Handle(Handle.Cpu, 2);
    internal static readonly Device Host = new Device(-1);

    private static void TheLibraryAndTheHandleTellAboutThemselves()
    {
        Check.That(Handle.Version == Native.FLASHQLA_VERSION && Handle.BuildInfo.Contains("0.1.0"), Handle.BuildInfo);
        var info = Cpu.Info();
        Check.That(info.Device == Handle.Cpu && info.Threads == 2 && info.Name == "CPU" && info.Image.Length > 0, info.Name);
        var job = new Job();
        var query = Cpu.Query(job.Problem, job.Sequences, job.State, Op.Forward);
        Check.That(query.Status == Status.Ok && query.Launches == 0 && query.EngineName.StartsWith("cpu") && query.Reason.Length > 0, query.Reason);
        Check.That(Cpu.Explain(job.Problem, job.Sequences, job.State, Op.Backward).Contains("cpu"), "explain");
        Cpu.Warmup(null, Op.Forward);
        Cpu.Warmup(job.Problem, Op.Backward);
        Check.That(new Problem().DType == DType.Default && Handle.StatusName(Status.NotWarm) == "NOT_WARM", "names");
    }

    private static void EveryGradientIsThatOfFiniteDifferences()
    {
        var job = new Job();
        var g = job.Inputs.Select(x => new double[x.Length]).ToArray();
        g[7] = new double[Job.Rows * Job.StateSize];
        var args = new BackwardArgs
        {
            DOut = job.DOut, DFinal = job.DFinal, Dq = g[0], Dk = g[1], Dv = g[2], DGate = g[3], DBeta = g[4], DALog = g[5], DDtBias = g[6], DInitial = g[7],
        };
        job.SetInputs(args);
        var query = Cpu.Query(job.Problem, job.Sequences, job.State, Op.Backward);
        using (var workspace = Host.Alloc<byte>((long)query.WorkspaceBytes))
            Cpu.Backward(job.Problem, job.Sequences, job.State, args, workspace);
        for (int field = 0; field < g.Length; field++)
            for (int at = 0; at < g[field].Length; at++)
            {
                int there = field == 7 ? job.ReadSlots[at / Job.StateSize] * Job.StateSize + at % Job.StateSize : at;
                double kept = job.Inputs[field][there], step = 1e-5;
                job.Inputs[field][there] = kept + step;
                double above = job.Loss();
                job.Inputs[field][there] = kept - step;
                double below = job.Loss();
                job.Inputs[field][there] = kept;
                Check.That(Math.Abs((above - below) / (2 * step) - g[field][at]) < 1e-7, "field " + field + ", element " + at);
            }
    }

    private static void WhatTheForwardSavesAndStrides()
    {
        Job plain = new Job(), wide = new Job();
        plain.Forward();
        var row = new List<double>(); // q, k and v of a token side by side
        for (int t = 0; t < Job.Tokens; t++)
            row.AddRange(wide.Inputs[0].Skip(t * 3).Take(3).Concat(wide.Inputs[1].Skip(t * 3).Take(3)).Concat(wide.Inputs[2].Skip(t * 4).Take(4)));
        var packed = row.ToArray();
        wide.Args.Q = Tensor.Of(packed).Strided(0, 10, 3);
        wide.Args.K = Tensor.Of(packed, 3, packed.Length - 3).Strided(0, 10, 3);
        wide.Args.V = Tensor.Of(packed, 6, packed.Length - 6).Strided(0, 10, 2);
        var query = Cpu.Query(wide.Problem, wide.Sequences, wide.State, Op.Forward);
        using (Buffer<byte> workspace = Host.Alloc<byte>((long)query.WorkspaceBytes), saved = Host.Alloc<byte>((long)query.SavedBytes))
        using (var stream = new CudaStream(Host))
        {
            if (query.SavedBytes > 0) wide.Args.Saved = saved;
            Cpu.Forward(wide.Problem, wide.Sequences, wide.State, wide.Args, workspace, stream);
            stream.Synchronize();
            wide.Args.Saved = default(Tensor);
        }
        Check.That(wide.Out.SequenceEqual(plain.Out) && wide.WritePool.SequenceEqual(plain.WritePool), "strided inputs give other results");
        wide.Args.V = Tensor.Of(packed, 6, packed.Length - 7).Strided(0, 10, 2);
        Check.Refused(Status.InvalidArgument, "args.v has 53 elements of dtype 4: must be 54", wide.Forward);
    }

    private static void CheckpointsPerTokenStatesAndRollback()
    {
        var problem = new Problem { KeyHeads = 1, ValueHeads = 1, KeyDim = 4, ValueDim = 4, DType = DType.F64 };
        Buffer<double> q = Host.Upload(Job.Numbers(512, 7)), k = Host.Upload(Job.Numbers(512, 11)), v = Host.Upload(Job.Numbers(512, 13));
        Buffer<double> gate = Host.Upload(Enumerable.Repeat(-0.25, 128).ToArray()), beta = Host.Upload(Enumerable.Repeat(0.5, 128).ToArray());
        Buffer<double> output = Host.Alloc<double>(512), pool = Host.Alloc<double>(5 * 16);
        Action<int, int, State> run = (from, count, state) => Cpu.Forward(problem, new Sequences { Rows = 1, Tokens = count }, state, new ForwardArgs
        {
            Q = q.Part(from * 4, count * 4), K = k.Part(from * 4, count * 4), V = v.Part(from * 4, count * 4), Gate = gate.Part(from, count),
            Beta = beta.Part(from, count), Out = output.Part(from * 4, count * 4),
        });
        Action equal = () =>
        {
            var all = pool.Download();
            Check.That(all.Take(16).SequenceEqual(all.Skip(16).Take(16)), "states differ");
        };
        run(0, 64, new State { Write = pool, WriteSlotsCount = 5, WriteSlots = new[] { 0 } });
        run(0, 128, new State
        {
            Write = pool, WriteSlotsCount = 5, WriteSlots = new[] { Slot.None }, CheckpointInterval = 64, CheckpointSlots = new[] { 1 }, CheckpointWidth = 1,
        });
        equal();
        var verify = new State
        {
            Flags = StateFlags.NoFinal, Read = pool, ReadSlotsCount = 5, ReadSlots = new[] { 0 }, Write = pool, WriteSlotsCount = 5, WriteSlots = new[] { 1 },
            TokenSlots = new[] { 2, 3, 4 }, TokenWidth = 3,
        };
        run(64, 3, verify);
        verify.Flags = 0;
        verify.Accepted = new[] { 2 };
        run(66, 1, verify); // from the state after two of the three
        run(64, 3, new State { Read = pool, ReadSlotsCount = 5, ReadSlots = new[] { 0 }, Write = pool, WriteSlotsCount = 5, WriteSlots = new[] { 0 } });
        equal();
    }

    private static void Invalid(string part, Action<Job> spoil)
    {
        var job = new Job();
        spoil(job);
        Check.Refused(Status.InvalidArgument, part, job.Forward);
    }

    private static void WhatIsWrongIsRefusedWithAReason()
    {
        var floats = new float[18];
        Invalid("args.q.dtype = 1: must be F64", j => j.Args.Q = floats);
        Invalid("args.k has 17 elements of dtype 4: must be 18", j => j.Args.K = Tensor.Of(j.Inputs[1], 1, 17));
        Invalid("args.out has 3", j => j.Args.Out = new double[3]);
        Invalid("args.out has 0", j => j.Args.Out = new double[0]);
        Invalid("args.beta.data is NULL: it is required", j => j.Args.Beta = default(Tensor));
        Invalid("args.out.data is NULL: it is required", j => j.Args.Out = (double[])null);
        Invalid("args.q.stride_token = -3: negative", j => j.Args.Q = j.Args.Q.Strided(0, -3, 3));
        Invalid("args.q has 18", j => j.Args.Q = j.Args.Q.Strided(0, long.MaxValue, 3));
        Invalid("sequences.tokens = -1", j => j.Sequences.Tokens = -1);
        Invalid("sequences.tokens = 9223372036854775807", j => j.Sequences.Tokens = long.MaxValue);
        Invalid("sequences.rows = -2", j => j.Sequences.Rows = -2);
        Invalid("sequences.offsets has 2 elements", j => j.Sequences.Offsets = new long[] { 0, 6 });
        Invalid("sequences.offsets_dtype", j => j.Sequences.Offsets = floats);
        Invalid("problem.key_dim = 999: must be 1 to 256", j => j.Problem.KeyDim = 999);
        Invalid("problem.key_dim = -3", j => j.Problem.KeyDim = -3);
        Invalid("problem.dtype = 77", j => j.Problem.DType = (DType)77);
        Invalid("state.read_slots has 1", j => j.State.ReadSlots = new[] { 1 });
        Invalid("state.read_slots has 18 elements of dtype 1", j => j.State.ReadSlots = floats);
        Invalid("state.read_data has 18 elements of dtype 1", j => j.State.Read = floats);
        Invalid("state.write_data has 35", j => j.State.Write = Tensor.Of(j.WritePool, 1, 35));
        Invalid("state.checkpoint_interval = 7", j => j.State.CheckpointInterval = 7);
        Invalid("args.q is memory of CUDA device 3: the handle is of the CPU", j => j.Args.Q = Tensor.Raw<double>(new IntPtr(4096), 18, 3));

        var job = new Job();
        job.Problem.Gate = GateForm.LogPerKey;
        Check.Refused(Status.Unsupported, "LOG_PER_KEY", job.Forward);
        job = new Job();
        Check.Refused(Status.InvalidArgument, "stream", () => Cpu.Forward(job.Problem, job.Sequences, job.State, job.Args, default(Tensor), new CudaStream(new IntPtr(64))));
        Check.Refused(Status.InvalidArgument, "form = 99", () => new Problem((Form)99));
        Check.Refused(Status.InvalidArgument, "config.device = -7", () => new Handle(-7));
        Check.Refused(Status.InvalidArgument, "config.threads = -1", () => new Handle(Handle.Cpu, -1));
        Check.Refused(Status.InvalidArgument, "op = 9", () => Cpu.Warmup(null, (Op)9));
        Check.Throws<ArgumentNullException>(() => Cpu.Forward(null, job.Sequences, job.State, job.Args));
        Check.Throws<ArgumentNullException>(() => Cpu.Forward(job.Problem, null, job.State, job.Args));
        Check.Throws<ArgumentNullException>(() => Cpu.Backward(job.Problem, job.Sequences, job.State, null));
        Check.Throws<ArgumentOutOfRangeException>(() => Tensor.Of(floats, 1, 18));

        var closed = new Handle(Handle.Cpu, 1);
        closed.Dispose();
        closed.Dispose();
        Check.Throws<ObjectDisposedException>(() => closed.Info());
        Check.Throws<ObjectDisposedException>(() => closed.Forward(job.Problem, job.Sequences, job.State, job.Args));
        var buffer = Host.Alloc<double>(18);
        Check.Refused(Status.InvalidArgument, "5 elements for a buffer of 18", () => buffer.Upload(new double[5]));
        buffer.Dispose();
        Check.Throws<ObjectDisposedException>(() => buffer.Download());
        job.Args.Q = buffer;
        Check.Throws<ObjectDisposedException>(job.Forward);
        var device = new Device(-1);
        device.Dispose();
        Check.Throws<ObjectDisposedException>(() => device.Alloc<float>(4));
        Check.Refused(Status.InvalidArgument, "-1 elements", () => Host.Alloc<float>(-1));
        Check.Refused(Status.OutOfMemory, "", () => Host.Alloc<double>(long.MaxValue));
        Check.Throws<FlashqlaException>(() => Host.Alloc<char>(1));
        Check.Throws<FlashqlaException>(() => new Device(12345));
    }

    private static void ThreadsShareAHandleAndKeepTheirErrorsApart()
    {
        var first = new Job();
        first.Forward();
        Exception wrong = null;
        var threads = Enumerable.Range(0, 4).Select(i => new Thread(() =>
        {
            try
            {
                for (int round = 0; round < 20; round++)
                {
                    var job = new Job();
                    job.Forward();
                    Check.That(job.Out.SequenceEqual(first.Out), "another result");
                    job.Problem.KeyDim = 1000 + i;
                    Check.Refused(Status.InvalidArgument, "key_dim = " + (1000 + i) + ":", job.Forward);
                }
            }
            catch (Exception e)
            {
                wrong = e;
            }
        })).ToArray();
        foreach (var thread in threads) thread.Start();
        foreach (var thread in threads) thread.Join();
        Check.That(wrong == null, "" + wrong);
    }

    private static void TheLogIsCalledAndMayThrow()
    {
        string said = "";
        using (var handle = new Handle(Handle.Best, 1, (level, message) =>
        {
            said = level + message;
            throw new Exception("a log that throws");
        }))
            Check.That(handle.Info().Device >= 0 || said.StartsWith("Infono usable CUDA device"), said);
    }

    private static void WhatNobodyClosedIsCollected()
    {
        for (int i = 0; i < 200; i++)
        {
            Host.Alloc<byte>(1 << 20);
            if (i % 50 == 0) new Handle(Handle.Cpu, 1);
        }
        GC.Collect();
        GC.WaitForPendingFinalizers();
        new Job().Forward();
    }

    // With the fake driver of bindings/cpp/tests in the place of libcuda.so.1, which counts what is given back.
    private static void DeviceMemoryOfCuda()
    {
        Check.Refused(Status.CudaError, "cuDeviceGet: CUDA_ERROR_INVALID_DEVICE (101)", () => new Device(7));
        var some = Job.Numbers(100, 7);
        using (var device = new Device(0))
        using (var buffer = device.Upload(some))
        using (var zeros = device.Alloc<float>(100))
        using (var stream = new CudaStream(device))
        {
            double[] back = null;
            var thread = new Thread(() => back = buffer.Download()); // where no context is current: the buffer sets it
            thread.Start();
            thread.Join();
            Check.That(back.SequenceEqual(some) && zeros.Download().SequenceEqual(new float[100]), "other numbers came back");
            stream.Synchronize();
            device.Synchronize();
            Invalid("args.q is memory of CUDA device 0: the handle is of the CPU", j => j.Args.Q = buffer);
            var job = new Job();
            Check.Refused(Status.InvalidArgument, "stream", () => Cpu.Forward(job.Problem, job.Sequences, job.State, job.Args, default(Tensor), stream));
            device.Dispose(); // before what lies on it: it lives on
            Check.That(buffer.Download().SequenceEqual(some), "a buffer without its device");
        }
    }

    private static int Main(string[] arguments)
    {
        int failed = 0;
        foreach (var test in arguments.Contains("device") ? new Action[] { DeviceMemoryOfCuda } : new Action[]
        {
            LayoutTest.SizesOffsetsAndConstantsAreThoseOfC, LayoutTest.EveryFunctionIsDeclared, TheLibraryAndTheHandleTellAboutThemselves,
            EveryGradientIsThatOfFiniteDifferences, WhatTheForwardSavesAndStrides, CheckpointsPerTokenStatesAndRollback,
            WhatIsWrongIsRefusedWithAReason, ThreadsShareAHandleAndKeepTheirErrorsApart, TheLogIsCalledAndMayThrow, WhatNobodyClosedIsCollected,
        })
        {
            try
            {
                test();
                Console.WriteLine("ok      " + test.Method.Name);
            }
            catch (Exception e)
            {
                failed++;
                Console.WriteLine("FAILED  " + test.Method.Name + ": " + e);
            }
        }
        return failed == 0 ? 0 : 1;
    }
}
