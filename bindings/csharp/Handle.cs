// Handle.cs: a handle and its calls.
using System;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Flashqla
{
    /// <summary>What a handle runs on; sizes that only a GPU has are 0 on the CPU, and threads on a GPU.</summary>
    public sealed class DeviceInfo
    {
        public int Device, ComputeMajor, ComputeMinor, Multiprocessors, Threads;
        public ulong SharedMemoryBytes, L2Bytes;
        public string Name, Image;
    }

    /// <summary>How a call would run, and what memory it wants. Buffers are aligned as workspace and saved must be.</summary>
    public sealed class QueryInfo
    {
        public Status Status; // Ok or Unsupported
        public Engine Engine;
        public int Launches;
        public ulong WorkspaceBytes;
        public ulong SavedBytes; // 0: nothing is worth saving
        public string EngineName, Reason;
    }

    // Ahead-of-time compilers, Unity's IL2CPP among them, look for this name on what C may call.
    [AttributeUsage(AttributeTargets.Method)]
    internal sealed class MonoPInvokeCallbackAttribute : Attribute
    {
        public MonoPInvokeCallbackAttribute(Type type)
        {
        }
    }

    /// <summary>
    /// A device, what it can do, and (on the CPU) a thread pool. Any number of threads may use one; calls that overlap in time need their own
    /// workspace and outputs. Calls under way go on after Dispose; once they are done, others throw ObjectDisposedException.
    /// </summary>
    public sealed class Handle : SafeHandleZeroOrMinusOneIsInvalid
    {
        /// <summary>The CPU as a device; CUDA ordinals count from 0.</summary>
        public const int Cpu = Native.FLASHQLA_DEVICE_CPU;

        /// <summary>The current CUDA context's device, else CUDA device 0, else the CPU.</summary>
        public const int Best = Native.FLASHQLA_DEVICE_BEST;

        private static readonly Native.flashqla_log_fn WriteLog = OnLog; // C keeps its address
        private readonly int device;
        private GCHandle log;

        /// <summary>
        /// Best falls back to the CPU, and tells log why, instead of failing for want of a usable CUDA device. log may be called from any thread
        /// and must not use this library; what it throws is dropped.
        /// </summary>
        public Handle(int device = Best, int threads = 0, Action<LogLevel, string> log = null, ulong flags = 0) : base(true)
        {
            if (log != null) this.log = GCHandle.Alloc(log);
            var config = new Native.flashqla_config
            {
                struct_size = (uint)Marshal.SizeOf(typeof(Native.flashqla_config)),
                device = device,
                threads = threads,
                flags = flags,
                log = log == null ? IntPtr.Zero : Marshal.GetFunctionPointerForDelegate(WriteLog),
                log_user = log == null ? IntPtr.Zero : GCHandle.ToIntPtr(this.log),
            };
            try
            {
                IntPtr made;
                FlashqlaException.Check(Native.flashqla_create(out made, ref config));
                SetHandle(made);
            }
            catch
            {
                if (this.log.IsAllocated) this.log.Free();
                throw;
            }
            this.device = Info().Device;
        }

        protected override bool ReleaseHandle()
        {
            Native.flashqla_destroy(handle);
            if (log.IsAllocated) log.Free();
            return true;
        }

        [MonoPInvokeCallback(typeof(Native.flashqla_log_fn))]
        private static void OnLog(IntPtr user, int level, IntPtr message)
        {
            try
            {
                ((Action<LogLevel, string>)GCHandle.FromIntPtr(user).Target)((LogLevel)level, Marshal.PtrToStringAnsi(message));
            }
            catch (Exception)
            {
                // An exception must not pass through C.
            }
        }

        /// <summary>major * 10000 + minor * 100 + patch of the library.</summary>
        public static int Version
        {
            get { return Native.flashqla_version(); }
        }

        /// <summary>One line: version, images inside, toolkit, compiler.</summary>
        public static string BuildInfo
        {
            get { return Marshal.PtrToStringAnsi(Native.flashqla_build_info()); }
        }

        /// <summary>The status's name in C.</summary>
        public static string StatusName(Status status)
        {
            return Marshal.PtrToStringAnsi(Native.flashqla_status_name((int)status));
        }

        /// <summary>What it runs on.</summary>
        public DeviceInfo Info()
        {
            var d = new Native.flashqla_device
            {
                struct_size = (uint)Marshal.SizeOf(typeof(Native.flashqla_device)),
                name = new byte[64],
                image = new byte[32],
            };
            FlashqlaException.Check(Native.flashqla_device_info(this, ref d));
            return new DeviceInfo
            {
                Device = d.device,
                ComputeMajor = d.compute_major,
                ComputeMinor = d.compute_minor,
                Multiprocessors = d.multiprocessors,
                Threads = d.threads,
                SharedMemoryBytes = d.shared_memory_bytes,
                L2Bytes = d.l2_bytes,
                Name = Text(d.name),
                Image = Text(d.image),
            };
        }

        /// <summary>Whether and how a call of these bounds would run. Looks at no contents and no lengths.</summary>
        public QueryInfo Query(Problem problem, Sequences sequences, State state, Op op)
        {
            using (var call = new Call(device, problem, sequences, state))
            {
                var info = QueryCall(call, op);
                return new QueryInfo
                {
                    Status = (Status)info.status,
                    Engine = (Engine)info.engine,
                    Launches = info.launches,
                    WorkspaceBytes = info.workspace_bytes,
                    SavedBytes = info.saved_bytes,
                    EngineName = Marshal.PtrToStringAnsi(info.engine_name),
                    Reason = Marshal.PtrToStringAnsi(info.reason),
                };
            }
        }

        /// <summary>The plan as text, for people.</summary>
        public string Explain(Problem problem, Sequences sequences, State state, Op op)
        {
            using (var call = new Call(device, problem, sequences, state))
            {
                UIntPtr needed;
                FlashqlaException.Check(Native.flashqla_explain(this, ref call.Problem, ref call.Sequences, call.State, (int)op, null, UIntPtr.Zero, out needed));
                var text = new byte[(int)needed.ToUInt64()];
                FlashqlaException.Check(Native.flashqla_explain(this, ref call.Problem, ref call.Sequences, call.State, (int)op, text, needed, out needed));
                return Text(text);
            }
        }

        /// <summary>Loads every kernel that calls of this problem (null: any) may need into the current context.</summary>
        public void Warmup(Problem problem, Op op)
        {
            FlashqlaException.Check(Native.flashqla_warmup(this, problem == null ? null : new[] { problem.ToNative() }, (int)op));
        }

        /// <summary>Prefill, decode, verify, mixed batches: writes args.Out and the states. On a CUDA handle it only enqueues.</summary>
        public void Forward(Problem problem, Sequences sequences, State state, ForwardArgs args, Tensor workspace = default(Tensor), CudaStream stream = null)
        {
            using (var call = new Call(device, problem, sequences, state))
            {
                var raw = call.Forward(args);
                var work = call.Bytes("workspace", workspace);
                ThrowRefusal(call, Op.Forward);
                using (var on = new StreamUse(stream))
                    FlashqlaException.Check(Native.flashqla_forward(this, ref call.Problem, ref call.Sequences, call.State, ref raw, work, Call.SizeOf(workspace), on.Raw));
            }
        }

        /// <summary>From dL/dout and dL/d(final state) to the gradients asked for. Of the states, only the reading side is used.</summary>
        public void Backward(Problem problem, Sequences sequences, State state, BackwardArgs args, Tensor workspace = default(Tensor), CudaStream stream = null)
        {
            using (var call = new Call(device, problem, sequences, state))
            {
                var raw = call.Backward(args);
                var work = call.Bytes("workspace", workspace);
                ThrowRefusal(call, Op.Backward);
                using (var on = new StreamUse(stream))
                    FlashqlaException.Check(Native.flashqla_backward(this, ref call.Problem, ref call.Sequences, call.State, ref raw, work, Call.SizeOf(workspace), on.Raw));
            }
        }

        private Native.flashqla_query_info QueryCall(Call call, Op op)
        {
            var info = new Native.flashqla_query_info { struct_size = (uint)Marshal.SizeOf(typeof(Native.flashqla_query_info)) };
            FlashqlaException.Check(Native.flashqla_query(this, ref call.Problem, ref call.Sequences, call.State, (int)op, ref info));
            return info;
        }

        // Where a size is wrong the library says more than this class can, and is asked first.
        private void ThrowRefusal(Call call, Op op)
        {
            if (call.Refusal == null) return;
            QueryCall(call, op);
            throw call.Refusal;
        }

        private static string Text(byte[] bytes)
        {
            int end = Array.IndexOf(bytes, (byte)0);
            return Encoding.UTF8.GetString(bytes, 0, end < 0 ? bytes.Length : end);
        }

        // A stream that is kept during a call; null is the default one.
        private struct StreamUse : IDisposable
        {
            private readonly CudaStream stream;
            internal readonly IntPtr Raw;

            internal StreamUse(CudaStream stream)
            {
                this.stream = stream;
                Raw = IntPtr.Zero;
                if (stream == null) return;
                bool done = false;
                stream.DangerousAddRef(ref done);
                Raw = stream.DangerousGetHandle();
            }

            public void Dispose()
            {
                if (stream != null) stream.DangerousRelease();
            }
        }
    }
}
