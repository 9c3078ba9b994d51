// Codes.cs: the codes of flashqla.h as enums, and what comes of a status. C sees the integers: one that it does not know is refused.
using System;
using System.Runtime.InteropServices;

namespace Flashqla
{
    /// <summary>What a function returns.</summary>
    public enum Status
    {
        Ok = Native.FLASHQLA_STATUS_OK,
        InvalidArgument = Native.FLASHQLA_STATUS_INVALID_ARGUMENT,
        Unsupported = Native.FLASHQLA_STATUS_UNSUPPORTED,
        WorkspaceTooSmall = Native.FLASHQLA_STATUS_WORKSPACE_TOO_SMALL,
        NoDriver = Native.FLASHQLA_STATUS_NO_DRIVER,
        DriverTooOld = Native.FLASHQLA_STATUS_DRIVER_TOO_OLD,
        NoImage = Native.FLASHQLA_STATUS_NO_IMAGE,
        NoContext = Native.FLASHQLA_STATUS_NO_CONTEXT,
        WrongDevice = Native.FLASHQLA_STATUS_WRONG_DEVICE,
        NotWarm = Native.FLASHQLA_STATUS_NOT_WARM,
        OutOfMemory = Native.FLASHQLA_STATUS_OUT_OF_MEMORY,
        CudaError = Native.FLASHQLA_STATUS_CUDA_ERROR,
        Internal = Native.FLASHQLA_STATUS_INTERNAL,
    }

    /// <summary>Element types. Default is told where a dtype is asked for.</summary>
    public enum DType
    {
        Default = Native.FLASHQLA_DTYPE_DEFAULT,
        F32 = Native.FLASHQLA_DTYPE_F32,
        BF16 = Native.FLASHQLA_DTYPE_BF16,
        F16 = Native.FLASHQLA_DTYPE_F16,
        F64 = Native.FLASHQLA_DTYPE_F64,
        I32 = Native.FLASHQLA_DTYPE_I32,
        I64 = Native.FLASHQLA_DTYPE_I64,
    }

    /// <summary>Which key head a value head reads: h / (HV / HK), or h % HK as in GGUF files.</summary>
    public enum HeadMap
    {
        Grouped = Native.FLASHQLA_HEADS_GROUPED,
        Tiled = Native.FLASHQLA_HEADS_TILED,
    }

    /// <summary>What Gate holds. LogPerKey is not supported.</summary>
    public enum GateForm
    {
        Log = Native.FLASHQLA_GATE_LOG,
        Linear = Native.FLASHQLA_GATE_LINEAR,
        Raw = Native.FLASHQLA_GATE_RAW,
        LogPerKey = Native.FLASHQLA_GATE_LOG_PER_KEY,
    }

    /// <summary>What Beta holds.</summary>
    public enum BetaForm
    {
        Value = Native.FLASHQLA_BETA_VALUE,
        Logit = Native.FLASHQLA_BETA_LOGIT,
    }

    /// <summary>What is done to q and k first.</summary>
    public enum Norm
    {
        None = Native.FLASHQLA_NORM_NONE,
        L2 = Native.FLASHQLA_NORM_L2,
    }

    /// <summary>Layout of each head's state: [K, V] or [V, K].</summary>
    public enum StateLayout
    {
        KV = Native.FLASHQLA_STATE_KV,
        VK = Native.FLASHQLA_STATE_VK,
    }

    /// <summary>Ways to compute. All but Auto are for tests and for bit parity between calls.</summary>
    public enum Engine
    {
        Auto = Native.FLASHQLA_ENGINE_AUTO,
        Recurrent = Native.FLASHQLA_ENGINE_RECURRENT,
        Chunked = Native.FLASHQLA_ENGINE_CHUNKED,
        Fused = Native.FLASHQLA_ENGINE_FUSED,
        ContextParallel = Native.FLASHQLA_ENGINE_CONTEXT_PARALLEL,
    }

    /// <summary>Operations, where one is asked for.</summary>
    public enum Op
    {
        Forward = Native.FLASHQLA_OP_FORWARD,
        Backward = Native.FLASHQLA_OP_BACKWARD,
    }

    /// <summary>Starting points of a Problem: the plain mathematical form, and Qwen's (raw gate, logit, L2 norm, VK state).</summary>
    public enum Form
    {
        Plain = Native.FLASHQLA_FORM_PLAIN,
        Qwen = Native.FLASHQLA_FORM_QWEN,
    }

    /// <summary>How much a message matters.</summary>
    public enum LogLevel
    {
        Error = Native.FLASHQLA_LOG_ERROR,
        Info = Native.FLASHQLA_LOG_INFO,
    }

    /// <summary>Bits of Problem.Flags.</summary>
    [Flags]
    public enum ProblemFlags : ulong
    {
        KeysBounded = Native.FLASHQLA_PROBLEM_KEYS_BOUNDED,
        ApproximateWarmup = Native.FLASHQLA_PROBLEM_APPROXIMATE_WARMUP,
        BatchInvariant = Native.FLASHQLA_PROBLEM_BATCH_INVARIANT,
        Allow16BitOperands = Native.FLASHQLA_PROBLEM_ALLOW_16BIT_OPERANDS,
    }

    /// <summary>Bits of State.Flags.</summary>
    [Flags]
    public enum StateFlags : ulong
    {
        NoFinal = Native.FLASHQLA_STATE_NO_FINAL,
    }

    /// <summary>Values of slot tables beside slots: the row is skipped; read: it starts from zero, write: its state is not stored.</summary>
    public static class Slot
    {
        public const int Pad = Native.FLASHQLA_SLOT_PAD;
        public const int None = Native.FLASHQLA_SLOT_NONE;
    }

    /// <summary>What went wrong: a status and the library's own text, which names the field, its value and the rule.</summary>
    public sealed class FlashqlaException : Exception
    {
        public FlashqlaException(Status status, string message) : base(message)
        {
            Status = status;
        }

        public Status Status { get; }

        // To be called on the thread of the call, before another one.
        internal static void Check(int status)
        {
            if (status != Native.FLASHQLA_STATUS_OK)
                throw new FlashqlaException((Status)status, Marshal.PtrToStringAnsi(Native.flashqla_last_error()));
        }

        internal static FlashqlaException Invalid(string message)
        {
            return new FlashqlaException(Status.InvalidArgument, message);
        }
    }
}
