// Call.cs: the arguments of a call, and whether memory is as long as the call reaches.
using System;
using System.Runtime.InteropServices;

namespace Flashqla
{
    /// <summary>What is computed. What is not set is the form's, or zero, the default of every field.</summary>
    public sealed class Problem
    {
        public int KeyHeads;   // HK: heads of q and k
        public int ValueHeads; // HV: heads of v, out, gate, beta and states; a multiple of HK
        public int KeyDim;     // K, 1 to 256
        public int ValueDim;   // V, 1 to 256
        public DType DType;
        public DType StateDType; // of states in memory; default F32, or F64 where DType is F64
        public HeadMap HeadMap;
        public GateForm Gate;
        public BetaForm Beta;
        public Norm QkNorm;
        public StateLayout StateLayout;
        public Engine Engine;
        public double BetaScale; // 0 = 1; 2 allows negative eigenvalues
        public double Scale;     // of the output; 0 = 1 / sqrt(K)
        public double Eps;       // of the L2 norm; 0 = 1e-6
        public ProblemFlags Flags;

        public Problem(Form form = Form.Plain)
        {
            Native.flashqla_problem p;
            FlashqlaException.Check(Native.flashqla_problem_init(out p, new UIntPtr((uint)Marshal.SizeOf(typeof(Native.flashqla_problem))), (int)form));
            KeyHeads = p.key_heads;
            ValueHeads = p.value_heads;
            KeyDim = p.key_dim;
            ValueDim = p.value_dim;
            DType = (DType)p.dtype;
            StateDType = (DType)p.state_dtype;
            HeadMap = (HeadMap)p.head_map;
            Gate = (GateForm)p.gate;
            Beta = (BetaForm)p.beta;
            QkNorm = (Norm)p.qk_norm;
            StateLayout = (StateLayout)p.state_layout;
            Engine = (Engine)p.engine;
            BetaScale = p.beta_scale;
            Scale = p.scale;
            Eps = p.eps;
            Flags = (ProblemFlags)p.flags;
        }

        internal Native.flashqla_problem ToNative()
        {
            return new Native.flashqla_problem
            {
                struct_size = (uint)Marshal.SizeOf(typeof(Native.flashqla_problem)),
                key_heads = KeyHeads,
                value_heads = ValueHeads,
                key_dim = KeyDim,
                value_dim = ValueDim,
                dtype = (int)DType,
                state_dtype = (int)StateDType,
                head_map = (int)HeadMap,
                gate = (int)Gate,
                beta = (int)Beta,
                qk_norm = (int)QkNorm,
                state_layout = (int)StateLayout,
                engine = (int)Engine,
                beta_scale = BetaScale,
                scale = Scale,
                eps = Eps,
                flags = (ulong)Flags,
            };
        }
    }

    /// <summary>How tokens form rows.</summary>
    public sealed class Sequences
    {
        public int Rows;       // N
        public long Tokens;    // in all
        public long MaxTokens; // no row is longer; 0 = Tokens / Rows without offsets, Tokens with them
        public Tensor Offsets; // [N + 1], int or long; NULL: rows of equal length
    }

    /// <summary>Where states are read and written. Pools hold elements of Problem.StateDType, tables hold int; NULL is not used.</summary>
    public sealed class State
    {
        public StateFlags Flags;
        public Tensor Read; // [slots] of [HV, K, V] or [HV, V, K]; NULL: every row starts from zero
        public long ReadSlotsCount;  // 0 = N
        public long ReadSlotStride;  // elements; 0 = packed
        public Tensor ReadSlots;     // [N]; NULL: row n reads slot n
        public Tensor Write;         // may be the same memory as Read
        public long WriteSlotsCount;
        public long WriteSlotStride;
        public Tensor WriteSlots;       // [N]; NULL: row n writes slot n
        public long CheckpointInterval; // a multiple of 64; 0: no checkpoints
        public Tensor CheckpointSlots;  // [N, CheckpointWidth]
        public long CheckpointWidth;
        public Tensor TokenSlots; // [N, TokenWidth]
        public long TokenWidth;
        public Tensor Accepted; // [N]
    }

    /// <summary>What forward and backward read alike.</summary>
    public abstract class Inputs
    {
        public Tensor Q;      // [tokens, HK, K]
        public Tensor K;      // [tokens, HK, K]
        public Tensor V;      // [tokens, HV, V]
        public Tensor Gate;   // [tokens, HV]
        public Tensor Beta;   // [tokens, HV]
        public Tensor ALog;   // [HV], raw gate only
        public Tensor DtBias; // [HV], raw gate only
        public Tensor Saved;  // forward: for a later backward, SavedBytes of Handle.Query; backward: what the forward saved. Or NULL
    }

    /// <summary>Tensors of Handle.Forward.</summary>
    public sealed class ForwardArgs : Inputs
    {
        public Tensor Out; // [tokens, HV, V]
    }

    /// <summary>Tensors of Handle.Backward. Gradients that are NULL are not computed.</summary>
    public sealed class BackwardArgs : Inputs
    {
        public Tensor DOut;     // [tokens, HV, V]
        public Tensor DFinal;   // by row, [N, HV, K, V] or [N, HV, V, K]; NULL: zero
        public Tensor Dq;       // [tokens, HK, K]
        public Tensor Dk;       // [tokens, HK, K]
        public Tensor Dv;       // [tokens, HV, V]
        public Tensor DGate;    // [tokens, HV]
        public Tensor DBeta;    // [tokens, HV]
        public Tensor DALog;    // [HV], raw gate only
        public Tensor DDtBias;  // [HV], raw gate only
        public Tensor DInitial; // by row, as DFinal
    }

    // One call's C structs, with the memory they point at pinned. Extents are floating-point numbers: exact for any memory there is, and
    // nothing overflows. What is negative passes: the library refuses it.
    internal sealed class Call : IDisposable
    {
        internal Native.flashqla_problem Problem;
        internal Native.flashqla_sequences Sequences;
        internal Native.flashqla_state[] State; // null, or one
        internal FlashqlaException Refusal;     // the first

        private readonly Pins pins = new Pins();
        private readonly int device;
        private readonly DType stateDType;
        private readonly double n, rows, tokens, hk, hv, k, v;

        internal Call(int device, Problem problem, Sequences sequences, State state)
        {
            if (problem == null) throw new ArgumentNullException("problem");
            if (sequences == null) throw new ArgumentNullException("sequences");
            this.device = device;
            Problem = problem.ToNative();
            bool f64 = problem.DType == DType.F64;
            stateDType = problem.StateDType != DType.Default ? problem.StateDType : f64 ? DType.F64 : DType.F32;
            n = sequences.Rows;
            rows = sequences.Offsets.IsNull ? n : 1;
            tokens = n == 0 ? 0 : sequences.Tokens / rows;
            hk = problem.KeyHeads;
            hv = problem.ValueHeads;
            k = problem.KeyDim;
            v = problem.ValueDim;
            try
            {
                Pin(sequences, state);
            }
            catch
            {
                pins.Dispose();
                throw;
            }
        }

        public void Dispose()
        {
            pins.Dispose();
        }

        private void Pin(Sequences s, State st)
        {
            Sequences = new Native.flashqla_sequences
            {
                struct_size = (uint)Marshal.SizeOf(typeof(Native.flashqla_sequences)),
                rows = s.Rows,
                tokens = s.Tokens,
                max_tokens = s.MaxTokens,
                offsets = Fits("sequences.offsets", s.Offsets, s.Offsets.DType, n + 1),
                offsets_dtype = (int)s.Offsets.DType,
            };
            if (st == null) return;
            State = new[]
            {
                new Native.flashqla_state
                {
                    struct_size = (uint)Marshal.SizeOf(typeof(Native.flashqla_state)),
                    flags = (ulong)st.Flags,
                    read_data = Pool("state.read_data", st.Read, st.ReadSlotsCount, st.ReadSlotStride),
                    read_slots_count = st.ReadSlotsCount,
                    read_slot_stride = st.ReadSlotStride,
                    read_slots = Table("state.read_slots", st.ReadSlots, 1),
                    write_data = Pool("state.write_data", st.Write, st.WriteSlotsCount, st.WriteSlotStride),
                    write_slots_count = st.WriteSlotsCount,
                    write_slot_stride = st.WriteSlotStride,
                    write_slots = Table("state.write_slots", st.WriteSlots, 1),
                    checkpoint_interval = st.CheckpointInterval,
                    checkpoint_slots = Table("state.checkpoint_slots", st.CheckpointSlots, st.CheckpointWidth),
                    checkpoint_width = st.CheckpointWidth,
                    token_slots = Table("state.token_slots", st.TokenSlots, st.TokenWidth),
                    token_width = st.TokenWidth,
                    accepted = Table("state.accepted", st.Accepted, 1),
                },
            };
        }

        internal Native.flashqla_forward_args Forward(ForwardArgs a)
        {
            if (a == null) throw new ArgumentNullException("args");
            return new Native.flashqla_forward_args
            {
                struct_size = (uint)Marshal.SizeOf(typeof(Native.flashqla_forward_args)),
                q = PerToken("args.q", a.Q, hk, k),
                k = PerToken("args.k", a.K, hk, k),
                v = PerToken("args.v", a.V, hv, v),
                gate = PerToken("args.gate", a.Gate, hv, 1),
                beta = PerToken("args.beta", a.Beta, hv, 1),
                A_log = PerHead("args.A_log", a.ALog),
                dt_bias = PerHead("args.dt_bias", a.DtBias),
                @out = PerToken("args.out", a.Out, hv, v),
                saved = Bytes("args.saved", a.Saved),
                saved_bytes = SizeOf(a.Saved),
            };
        }

        internal Native.flashqla_backward_args Backward(BackwardArgs a)
        {
            if (a == null) throw new ArgumentNullException("args");
            return new Native.flashqla_backward_args
            {
                struct_size = (uint)Marshal.SizeOf(typeof(Native.flashqla_backward_args)),
                q = PerToken("args.q", a.Q, hk, k),
                k = PerToken("args.k", a.K, hk, k),
                v = PerToken("args.v", a.V, hv, v),
                gate = PerToken("args.gate", a.Gate, hv, 1),
                beta = PerToken("args.beta", a.Beta, hv, 1),
                A_log = PerHead("args.A_log", a.ALog),
                dt_bias = PerHead("args.dt_bias", a.DtBias),
                d_out = PerToken("args.d_out", a.DOut, hv, v),
                d_final = PerRow("args.d_final", a.DFinal),
                dq = PerToken("args.dq", a.Dq, hk, k),
                dk = PerToken("args.dk", a.Dk, hk, k),
                dv = PerToken("args.dv", a.Dv, hv, v),
                d_gate = PerToken("args.d_gate", a.DGate, hv, 1),
                d_beta = PerToken("args.d_beta", a.DBeta, hv, 1),
                dA_log = PerHead("args.dA_log", a.DALog),
                ddt_bias = PerHead("args.ddt_bias", a.DDtBias),
                d_initial = PerRow("args.d_initial", a.DInitial),
                saved = Bytes("args.saved", a.Saved),
                saved_bytes = SizeOf(a.Saved),
            };
        }

        // Workspace and saved: the library knows how long they must be.
        internal IntPtr Bytes(string name, Tensor t)
        {
            return Fits(name, t, t.DType, 0);
        }

        internal static ulong SizeOf(Tensor t)
        {
            return (ulong)t.Length * (ulong)t.ElementBytes;
        }

        private void Refuse(string why)
        {
            if (Refusal == null) Refusal = FlashqlaException.Invalid(why);
        }

        private static string Place(int device)
        {
            return device < 0 ? "the CPU" : "CUDA device " + device;
        }

        private IntPtr Fits(string name, Tensor t, DType dtype, double reach)
        {
            if (t.IsNull) return IntPtr.Zero;
            if (t.Device != device) Refuse(name + " is memory of " + Place(t.Device) + ": the handle is of " + Place(device));
            if (t.DType != dtype || t.Length < reach)
                Refuse(name + " has " + t.Length + " elements of dtype " + (int)t.DType + ": must be " + reach + " of dtype " + (int)dtype);
            return t.Pin(pins);
        }

        private IntPtr Table(string name, Tensor t, long width)
        {
            return Fits(name, t, DType.I32, n * width);
        }

        private IntPtr Pool(string name, Tensor t, long slots, long stride)
        {
            double packed = hv * k * v, count = slots == 0 ? n : slots, step = stride == 0 ? packed : stride;
            return Fits(name, t, stateDType, count == 0 ? 0 : (count - 1) * step + packed);
        }

        private Native.flashqla_tensor Walk(string name, Tensor t, double rows, double tokens, double heads, double dim)
        {
            bool packed = t.Row == 0 && t.Token == 0 && t.Head == 0;
            double last = (rows - 1) * t.Row + (tokens - 1) * t.Token + (heads - 1) * t.Head;
            return new Native.flashqla_tensor
            {
                data = Fits(name, t, t.DType, packed || rows * tokens == 0 ? rows * tokens * heads * dim : last + dim),
                dtype = (int)t.DType,
                stride_row = t.Row,
                stride_token = t.Token,
                stride_head = t.Head,
            };
        }

        // [tokens, heads, dim]
        private Native.flashqla_tensor PerToken(string name, Tensor t, double heads, double dim)
        {
            return Walk(name, t, rows, tokens, heads, dim);
        }

        // [HV]
        private Native.flashqla_tensor PerHead(string name, Tensor t)
        {
            return Walk(name, t, 1, 1, hv, 1);
        }

        // [N, HV, K, V]
        private Native.flashqla_tensor PerRow(string name, Tensor t)
        {
            return Walk(name, t, n, 1, hv, k * v);
        }
    }
}
