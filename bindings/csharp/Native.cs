// Native.cs: flashqla.h for P/Invoke, names and order as in C. tests/LayoutTest.cs compares sizes, offsets and constants with C.
using System;
using System.Runtime.InteropServices;

namespace Flashqla
{
    /// <summary>The C ABI as it stands. Handle and the other classes make it safe.</summary>
    public static class Native
    {
        // libflashqla.so, flashqla.dll; in Unity and Godot the file lies among the plug-ins.
        public const string Library = "flashqla";

        public const int FLASHQLA_VERSION = 100;
        public const int FLASHQLA_STATUS_OK = 0;
        public const int FLASHQLA_STATUS_INVALID_ARGUMENT = 1;
        public const int FLASHQLA_STATUS_UNSUPPORTED = 2;
        public const int FLASHQLA_STATUS_WORKSPACE_TOO_SMALL = 3;
        public const int FLASHQLA_STATUS_NO_DRIVER = 4;
        public const int FLASHQLA_STATUS_DRIVER_TOO_OLD = 5;
        public const int FLASHQLA_STATUS_NO_IMAGE = 6;
        public const int FLASHQLA_STATUS_NO_CONTEXT = 7;
        public const int FLASHQLA_STATUS_WRONG_DEVICE = 8;
        public const int FLASHQLA_STATUS_NOT_WARM = 9;
        public const int FLASHQLA_STATUS_OUT_OF_MEMORY = 10;
        public const int FLASHQLA_STATUS_CUDA_ERROR = 11;
        public const int FLASHQLA_STATUS_INTERNAL = 12;
        public const int FLASHQLA_DTYPE_DEFAULT = 0;
        public const int FLASHQLA_DTYPE_F32 = 1;
        public const int FLASHQLA_DTYPE_BF16 = 2;
        public const int FLASHQLA_DTYPE_F16 = 3;
        public const int FLASHQLA_DTYPE_F64 = 4;
        public const int FLASHQLA_DTYPE_I32 = 5;
        public const int FLASHQLA_DTYPE_I64 = 6;
        public const int FLASHQLA_DEVICE_CPU = -1;
        public const int FLASHQLA_DEVICE_BEST = -2;
        public const int FLASHQLA_HEADS_GROUPED = 0;
        public const int FLASHQLA_HEADS_TILED = 1;
        public const int FLASHQLA_GATE_LOG = 0;
        public const int FLASHQLA_GATE_LINEAR = 1;
        public const int FLASHQLA_GATE_RAW = 2;
        public const int FLASHQLA_GATE_LOG_PER_KEY = 3;
        public const int FLASHQLA_BETA_VALUE = 0;
        public const int FLASHQLA_BETA_LOGIT = 1;
        public const int FLASHQLA_NORM_NONE = 0;
        public const int FLASHQLA_NORM_L2 = 1;
        public const int FLASHQLA_STATE_KV = 0;
        public const int FLASHQLA_STATE_VK = 1;
        public const int FLASHQLA_SLOT_PAD = -1;
        public const int FLASHQLA_SLOT_NONE = -2;
        public const int FLASHQLA_ENGINE_AUTO = 0;
        public const int FLASHQLA_ENGINE_RECURRENT = 1;
        public const int FLASHQLA_ENGINE_CHUNKED = 2;
        public const int FLASHQLA_ENGINE_FUSED = 3;
        public const int FLASHQLA_ENGINE_CONTEXT_PARALLEL = 4;
        public const int FLASHQLA_OP_FORWARD = 0;
        public const int FLASHQLA_OP_BACKWARD = 1;
        public const int FLASHQLA_FORM_PLAIN = 0;
        public const int FLASHQLA_FORM_QWEN = 1;
        public const int FLASHQLA_LOG_ERROR = 0;
        public const int FLASHQLA_LOG_INFO = 1;
        public const ulong FLASHQLA_PROBLEM_KEYS_BOUNDED = 1;
        public const ulong FLASHQLA_PROBLEM_APPROXIMATE_WARMUP = 2;
        public const ulong FLASHQLA_PROBLEM_BATCH_INVARIANT = 4;
        public const ulong FLASHQLA_PROBLEM_ALLOW_16BIT_OPERANDS = 8;
        public const ulong FLASHQLA_STATE_NO_FINAL = 1;

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        public delegate void flashqla_log_fn(IntPtr user, int level, IntPtr message);

        [StructLayout(LayoutKind.Sequential)]
        public struct flashqla_config
        {
            public uint struct_size;
            public int device;
            public int threads;
            public int reserved;
            public ulong flags;
            public IntPtr log;
            public IntPtr log_user;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct flashqla_reserved
        {
            public long first, second;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct flashqla_tensor
        {
            public IntPtr data;
            public int dtype;
            public int reserved0;
            public long stride_row;
            public long stride_token;
            public long stride_head;
            public flashqla_reserved reserved; // two integers, so that the struct is C's own bytes
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct flashqla_problem
        {
            public uint struct_size;
            public int key_heads;
            public int value_heads;
            public int key_dim;
            public int value_dim;
            public int dtype;
            public int state_dtype;
            public int head_map;
            public int gate;
            public int beta;
            public int qk_norm;
            public int state_layout;
            public int engine;
            public int reserved;
            public double beta_scale;
            public double scale;
            public double eps;
            public ulong flags;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct flashqla_sequences
        {
            public uint struct_size;
            public int rows;
            public long tokens;
            public long max_tokens;
            public IntPtr offsets;
            public int offsets_dtype;
            public int reserved;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct flashqla_state
        {
            public uint struct_size;
            public int reserved;
            public ulong flags;
            public IntPtr read_data;
            public long read_slots_count;
            public long read_slot_stride;
            public IntPtr read_slots;
            public IntPtr write_data;
            public long write_slots_count;
            public long write_slot_stride;
            public IntPtr write_slots;
            public long checkpoint_interval;
            public IntPtr checkpoint_slots;
            public long checkpoint_width;
            public IntPtr token_slots;
            public long token_width;
            public IntPtr accepted;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct flashqla_forward_args
        {
            public uint struct_size;
            public int reserved;
            public flashqla_tensor q;
            public flashqla_tensor k;
            public flashqla_tensor v;
            public flashqla_tensor gate;
            public flashqla_tensor beta;
            public flashqla_tensor A_log;
            public flashqla_tensor dt_bias;
            public flashqla_tensor @out;
            public IntPtr saved;
            public ulong saved_bytes;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct flashqla_backward_args
        {
            public uint struct_size;
            public int reserved;
            public flashqla_tensor q;
            public flashqla_tensor k;
            public flashqla_tensor v;
            public flashqla_tensor gate;
            public flashqla_tensor beta;
            public flashqla_tensor A_log;
            public flashqla_tensor dt_bias;
            public flashqla_tensor d_out;
            public flashqla_tensor d_final;
            public flashqla_tensor dq;
            public flashqla_tensor dk;
            public flashqla_tensor dv;
            public flashqla_tensor d_gate;
            public flashqla_tensor d_beta;
            public flashqla_tensor dA_log;
            public flashqla_tensor ddt_bias;
            public flashqla_tensor d_initial;
            public IntPtr saved;
            public ulong saved_bytes;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct flashqla_query_info
        {
            public uint struct_size;
            public int status;
            public int engine;
            public int launches;
            public ulong workspace_bytes;
            public ulong saved_bytes;
            public IntPtr engine_name;
            public IntPtr reason;
        }

        [StructLayout(LayoutKind.Sequential)]
        public struct flashqla_device
        {
            public uint struct_size;
            public int device;
            public int compute_major;
            public int compute_minor;
            public int multiprocessors;
            public int threads;
            public ulong shared_memory_bytes;
            public ulong l2_bytes;
            [MarshalAs(UnmanagedType.ByValArray, SizeConst = 64)] public byte[] name;
            [MarshalAs(UnmanagedType.ByValArray, SizeConst = 32)] public byte[] image;
        }

        // A struct that may be NULL in C is an array here: of one, or null.

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_version();

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern IntPtr flashqla_build_info();

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern IntPtr flashqla_status_name(int status);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern IntPtr flashqla_last_error();

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern UIntPtr flashqla_last_error_copy([Out] byte[] buffer, UIntPtr capacity);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_config_init(out flashqla_config p, UIntPtr size);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_problem_init(out flashqla_problem p, UIntPtr size, int form);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_sequences_init(out flashqla_sequences p, UIntPtr size);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_state_init(out flashqla_state p, UIntPtr size);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_forward_args_init(out flashqla_forward_args p, UIntPtr size);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_backward_args_init(out flashqla_backward_args p, UIntPtr size);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_create(out IntPtr handle, ref flashqla_config config);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern void flashqla_destroy(IntPtr handle);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_device_info(Handle handle, ref flashqla_device info);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_query(Handle handle, ref flashqla_problem problem, ref flashqla_sequences sequences,
                                                [In] flashqla_state[] state, int op, ref flashqla_query_info info);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_explain(Handle handle, ref flashqla_problem problem, ref flashqla_sequences sequences,
                                                  [In] flashqla_state[] state, int op, [Out] byte[] text, UIntPtr capacity, out UIntPtr needed);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_warmup(Handle handle, [In] flashqla_problem[] problem, int op);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_forward(Handle handle, ref flashqla_problem problem, ref flashqla_sequences sequences,
                                                  [In] flashqla_state[] state, ref flashqla_forward_args args, IntPtr workspace,
                                                  ulong workspace_bytes, IntPtr stream);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern int flashqla_backward(Handle handle, ref flashqla_problem problem, ref flashqla_sequences sequences,
                                                   [In] flashqla_state[] state, ref flashqla_backward_args args, IntPtr workspace,
                                                   ulong workspace_bytes, IntPtr stream);
    }
}
