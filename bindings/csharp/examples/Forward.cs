// Forward.cs: the shortest whole use of flashqla, on the best device there is. Two rows of three tokens, in f32, from an empty state; prints
// a checksum that is the same in every language's example.
using System;
using System.Globalization;
using Flashqla;

internal static class Forward
{
    private const int Rows = 2, Tokens = 6, Heads = 2, Dim = 16, Values = Tokens * Heads * Dim, Scalars = Tokens * Heads;

    // Device memory with `count` numbers in it: step/64 apart, going round in [-range, range).
    private static Buffer<float> Numbers(Device device, int count, int step, float range)
    {
        var host = new float[count];
        for (int i = 0; i < count; i++) host[i] = range * ((float)(i * step % 64) / 32 - 1);
        return device.Upload(host);
    }

    private static void Run()
    {
        using (var handle = new Handle()) // the best device
        {
            var info = handle.Info();
            using (var device = new Device(info.Device))
            using (Buffer<float> q = Numbers(device, Values, 7, 1), k = Numbers(device, Values, 11, 1), v = Numbers(device, Values, 13, 1))
            using (Buffer<float> gate = Numbers(device, Scalars, 5, 2), beta = Numbers(device, Scalars, 3, 2))
            using (Buffer<float> aLog = Numbers(device, Heads, 9, 1), dtBias = Numbers(device, Heads, 17, 1))
            using (var output = Numbers(device, Values, 0, 0))
            {
                var problem = new Problem(Form.Qwen) { KeyHeads = Heads, ValueHeads = Heads, KeyDim = Dim, ValueDim = Dim, DType = DType.F32 };
                var sequences = new Sequences { Rows = Rows, Tokens = Tokens };
                var args = new ForwardArgs { Q = q, K = k, V = v, Gate = gate, Beta = beta, ALog = aLog, DtBias = dtBias, Out = output };
                var query = handle.Query(problem, sequences, null, Op.Forward);
                using (var workspace = device.Alloc<byte>((long)query.WorkspaceBytes))
                {
                    handle.Forward(problem, sequences, null, args, workspace);
                    device.Synchronize();
                }
                double sum = 0;
                var result = output.Download();
                for (int i = 0; i < Values; i++) sum += (double)result[i] * (i % 7 + 1);
                Console.WriteLine(string.Format(CultureInfo.InvariantCulture, "{0}, {1}: checksum {2:F4}", info.Name, query.EngineName, sum));
            }
        }
    }

    private static int Main()
    {
        try
        {
            Run();
            return 0;
        }
        catch (FlashqlaException e)
        {
            Console.Error.WriteLine(Handle.StatusName(e.Status) + ": " + e.Message);
            return 1;
        }
    }
}
