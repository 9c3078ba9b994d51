// Tensor.cs: memory with its length, dtype and device.
using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;

namespace Flashqla
{
    /// <summary>A bfloat16 by its bits.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct BFloat16
    {
        public ushort Bits;
    }

    /// <summary>An IEEE half by its bits.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct Float16
    {
        public ushort Bits;
    }

    internal static class Elements
    {
        internal static DType DTypeOf(Type type)
        {
            if (type == typeof(float)) return DType.F32;
            if (type == typeof(BFloat16)) return DType.BF16;
            if (type == typeof(Float16)) return DType.F16;
            if (type == typeof(double)) return DType.F64;
            if (type == typeof(int)) return DType.I32;
            if (type == typeof(long)) return DType.I64;
            if (type == typeof(byte)) return DType.Default; // workspace and saved
            throw FlashqlaException.Invalid(type + " is no element type of flashqla");
        }
    }

    /// <summary>
    /// Memory that a call reads or writes: an array (CPU handles), a buffer, a part of either, or somebody else's memory. The default is
    /// NULL: the field is not used. Arrays and buffers are kept in place and alive while a call runs.
    /// </summary>
    public struct Tensor
    {
        private readonly DeviceMemory memory;
        private readonly Array array;
        private readonly IntPtr address; // or bytes from the start of memory or array
        internal readonly long Length;
        internal readonly DType DType;
        internal readonly int ElementBytes;
        internal readonly int Device;
        internal long Row, Token, Head;

        internal Tensor(DeviceMemory memory, Array array, IntPtr address, long length, DType dtype, int elementBytes, int device)
        {
            this.memory = memory;
            this.array = array;
            this.address = address;
            Length = length;
            DType = dtype;
            ElementBytes = elementBytes;
            Device = device;
            Row = Token = Head = 0;
        }

        /// <summary>A part of an array.</summary>
        public static Tensor Of<T>(T[] array, long first, long count) where T : struct
        {
            if (first < 0 || count < 0 || first > array.LongLength || count > array.LongLength - first)
                throw new ArgumentOutOfRangeException("first");
            int size = Marshal.SizeOf(typeof(T));
            return new Tensor(null, array, new IntPtr(first * size), count, Elements.DTypeOf(typeof(T)), size, Handle.Cpu);
        }

        /// <summary>All of an array; null is NULL.</summary>
        public static Tensor Of<T>(T[] array) where T : struct
        {
            return array == null ? default(Tensor) : Of(array, 0, array.LongLength);
        }

        /// <summary>All of a buffer; null is NULL.</summary>
        public static Tensor Of<T>(Buffer<T> buffer) where T : struct
        {
            return buffer == null ? default(Tensor) : buffer.Part(0, buffer.Length);
        }

        /// <summary>Somebody else's memory of `length` elements on a device (a CUDA ordinal, or Handle.Cpu), who keeps it until the work is done.</summary>
        public static Tensor Raw<T>(IntPtr address, long length, int device) where T : struct
        {
            return address == IntPtr.Zero
                ? default(Tensor)
                : new Tensor(null, null, address, length, Elements.DTypeOf(typeof(T)), Marshal.SizeOf(typeof(T)), device);
        }

        public static implicit operator Tensor(float[] array) { return Of(array); }
        public static implicit operator Tensor(double[] array) { return Of(array); }
        public static implicit operator Tensor(BFloat16[] array) { return Of(array); }
        public static implicit operator Tensor(Float16[] array) { return Of(array); }
        public static implicit operator Tensor(int[] array) { return Of(array); }
        public static implicit operator Tensor(long[] array) { return Of(array); }
        public static implicit operator Tensor(Buffer<float> buffer) { return Of(buffer); }
        public static implicit operator Tensor(Buffer<double> buffer) { return Of(buffer); }
        public static implicit operator Tensor(Buffer<BFloat16> buffer) { return Of(buffer); }
        public static implicit operator Tensor(Buffer<Float16> buffer) { return Of(buffer); }
        public static implicit operator Tensor(Buffer<int> buffer) { return Of(buffer); }
        public static implicit operator Tensor(Buffer<long> buffer) { return Of(buffer); }
        public static implicit operator Tensor(Buffer<byte> buffer) { return Of(buffer); }

        /// <summary>With strides in elements, from row to row, token to token and head to head. All zero: packed.</summary>
        public Tensor Strided(long row, long token, long head)
        {
            var strided = this;
            strided.Row = row;
            strided.Token = token;
            strided.Head = head;
            return strided;
        }

        internal bool IsNull
        {
            get { return memory == null && array == null && address == IntPtr.Zero; }
        }

        // The address, good for as long as `pins` lives.
        internal IntPtr Pin(Pins pins)
        {
            long start = memory != null ? pins.Hold(memory) : array != null ? pins.Pin(array) : 0;
            return new IntPtr(start + address.ToInt64());
        }
    }

    // Memory that is kept in place and alive during a call.
    internal sealed class Pins : IDisposable
    {
        private readonly List<GCHandle> arrays = new List<GCHandle>();
        private readonly List<SafeHandle> handles = new List<SafeHandle>();

        internal long Pin(Array array)
        {
            var pinned = GCHandle.Alloc(array, GCHandleType.Pinned);
            arrays.Add(pinned);
            return pinned.AddrOfPinnedObject().ToInt64();
        }

        internal long Hold(SafeHandle handle)
        {
            bool done = false;
            handle.DangerousAddRef(ref done); // ObjectDisposedException where it is closed
            handles.Add(handle);
            return handle.DangerousGetHandle().ToInt64();
        }

        public void Dispose()
        {
            foreach (var pinned in arrays) pinned.Free();
            foreach (var handle in handles) handle.DangerousRelease();
            arrays.Clear();
            handles.Clear();
        }
    }
}
