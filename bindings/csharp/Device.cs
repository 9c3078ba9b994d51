// Device.cs: device memory and streams for programs that have no CUDA of their own, over the driver that .NET opens when it is first
// called. On the CPU memory is host memory and everything is done when a call returns.
using System;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Flashqla
{
    /// <summary>The primary context of a CUDA device, or the CPU. It lives as long as its buffers and streams.</summary>
    public sealed class Device : SafeHandleZeroOrMinusOneIsInvalid
    {
#if WINDOWS || UNITY_STANDALONE_WIN || UNITY_EDITOR_WIN
        private const string Driver = "nvcuda";
#else
        private const string Driver = "libcuda.so.1";
#endif
        private static readonly IntPtr Cpu = new IntPtr(1); // a context of no meaning, that is not invalid
        private readonly int device;

        /// <summary>Opens a CUDA device and makes its primary context current on this thread; a negative ordinal opens the CPU.</summary>
        public Device(int ordinal) : base(true)
        {
            Ordinal = ordinal < 0 ? Handle.Cpu : ordinal;
            SetHandle(ordinal < 0 ? Cpu : IntPtr.Zero);
            if (!IsCuda) return;
            try
            {
                Check(cuInit(0), "cuInit");
                Check(cuDeviceGet(out device, ordinal), "cuDeviceGet");
                IntPtr context;
                Check(cuDevicePrimaryCtxRetain(out context, device), "cuDevicePrimaryCtxRetain");
                SetHandle(context);
            }
            catch (DllNotFoundException)
            {
                throw new FlashqlaException(Status.NoDriver, "no CUDA driver: " + Driver + " could not be opened");
            }
            catch (EntryPointNotFoundException e)
            {
                throw new FlashqlaException(Status.DriverTooOld, "the CUDA driver lacks a function: too old (" + e.Message + ")");
            }
            Attach();
        }

        /// <summary>Handle.Cpu or the CUDA ordinal.</summary>
        public int Ordinal { get; }

        internal bool IsCuda
        {
            get { return Ordinal >= 0; }
        }

        /// <summary>Makes the context current on the calling thread, which every thread that makes calls on a CUDA handle does once.</summary>
        public void Attach()
        {
            using (new Hold(this))
                if (IsCuda) Check(cuCtxSetCurrent(handle), "cuCtxSetCurrent");
        }

        /// <summary>Waits for all work on the device.</summary>
        public void Synchronize()
        {
            Attach();
            if (IsCuda) Check(cuCtxSynchronize(), "cuCtxSynchronize");
        }

        /// <summary>A buffer of zeros, aligned to 256 bytes.</summary>
        public Buffer<T> Alloc<T>(long length) where T : struct
        {
            return new Buffer<T>(this, length);
        }

        /// <summary>A buffer with a copy of from.</summary>
        public Buffer<T> Upload<T>(T[] from) where T : struct
        {
            var buffer = new Buffer<T>(this, from.LongLength);
            buffer.Upload(from);
            return buffer;
        }

        protected override bool ReleaseHandle()
        {
            if (IsCuda) cuDevicePrimaryCtxRelease_v2(device);
            return true;
        }

        internal IntPtr Allocate(ulong bytes, out IntPtr whole)
        {
            Attach();
            if (IsCuda)
            {
                ulong address;
                Check(cuMemAlloc_v2(out address, new UIntPtr(bytes)), "cuMemAlloc");
                Check(cuMemsetD8_v2(address, 0, new UIntPtr(bytes)), "cuMemsetD8");
                Check(cuStreamSynchronize(IntPtr.Zero), "cuStreamSynchronize");
                return whole = new IntPtr((long)address);
            }
            try
            {
                whole = Marshal.AllocHGlobal(new IntPtr(checked((long)bytes + 255)));
            }
            catch (OutOfMemoryException)
            {
                throw new FlashqlaException(Status.OutOfMemory, bytes + " bytes could not be had");
            }
            var aligned = new IntPtr((whole.ToInt64() + 255) / 256 * 256);
            var zeros = new byte[4096];
            for (long at = 0; at < (long)bytes; at += zeros.Length)
                Marshal.Copy(zeros, 0, new IntPtr(aligned.ToInt64() + at), (int)Math.Min(zeros.Length, (long)bytes - at));
            return aligned;
        }

        // Waits for the device, so that nothing enqueued can outlive its memory. Runs on the finalizer's thread, too.
        internal void Free(IntPtr whole)
        {
            if (!IsCuda)
            {
                Marshal.FreeHGlobal(whole);
            }
            else if (cuCtxSetCurrent(handle) == 0)
            {
                cuCtxSynchronize();
                cuMemFree_v2((ulong)whole.ToInt64());
            }
        }

        internal void CopyIn(IntPtr to, IntPtr from, ulong bytes)
        {
            Attach();
            if (!IsCuda)
            {
                CopyHost(to, from, bytes);
                return;
            }
            Check(cuMemcpyHtoD_v2((ulong)to.ToInt64(), from, new UIntPtr(bytes)), "cuMemcpyHtoD");
            Check(cuStreamSynchronize(IntPtr.Zero), "cuStreamSynchronize"); // pageable memory may be on its way still
        }

        internal void CopyOut(IntPtr to, IntPtr from, ulong bytes)
        {
            Attach();
            if (IsCuda)
                Check(cuMemcpyDtoH_v2(to, (ulong)from.ToInt64(), new UIntPtr(bytes)), "cuMemcpyDtoH");
            else
                CopyHost(to, from, bytes);
        }

        internal IntPtr CreateStream()
        {
            Attach();
            var stream = IntPtr.Zero;
            if (IsCuda) Check(cuStreamCreate(out stream, 1), "cuStreamCreate");
            return stream;
        }

        internal void SynchronizeStream(IntPtr stream)
        {
            Attach();
            if (IsCuda) Check(cuStreamSynchronize(stream), "cuStreamSynchronize");
        }

        internal void DestroyStream(IntPtr stream)
        {
            if (IsCuda && cuCtxSetCurrent(handle) == 0) cuStreamDestroy_v2(stream);
        }

        // In pieces through an array: plain C# without unsafe code has no other way from address to address.
        private static void CopyHost(IntPtr to, IntPtr from, ulong bytes)
        {
            var piece = new byte[Math.Min(bytes, 1 << 16)];
            for (ulong at = 0; at < bytes; at += (ulong)piece.Length)
            {
                int count = (int)Math.Min((ulong)piece.Length, bytes - at);
                Marshal.Copy(new IntPtr(from.ToInt64() + (long)at), piece, 0, count);
                Marshal.Copy(piece, 0, new IntPtr(to.ToInt64() + (long)at), count);
            }
        }

        private static void Check(int code, string what)
        {
            if (code == 0) return;
            IntPtr name;
            cuGetErrorName(code, out name);
            var text = name == IntPtr.Zero ? "unknown CUDA error" : Marshal.PtrToStringAnsi(name);
            throw new FlashqlaException(Status.CudaError, what + ": " + text + " (" + code + ")");
        }

        // The exported names are the oldest with these parameters, so that older drivers have them.
        [DllImport(Driver)] private static extern int cuInit(uint flags);
        [DllImport(Driver)] private static extern int cuGetErrorName(int error, out IntPtr name);
        [DllImport(Driver)] private static extern int cuDeviceGet(out int device, int ordinal);
        [DllImport(Driver)] private static extern int cuDevicePrimaryCtxRetain(out IntPtr context, int device);
        [DllImport(Driver)] private static extern int cuDevicePrimaryCtxRelease_v2(int device);
        [DllImport(Driver)] private static extern int cuCtxSetCurrent(IntPtr context);
        [DllImport(Driver)] private static extern int cuCtxSynchronize();
        [DllImport(Driver)] private static extern int cuMemAlloc_v2(out ulong address, UIntPtr bytes);
        [DllImport(Driver)] private static extern int cuMemFree_v2(ulong address);
        [DllImport(Driver)] private static extern int cuMemsetD8_v2(ulong to, byte value, UIntPtr bytes);
        [DllImport(Driver)] private static extern int cuMemcpyHtoD_v2(ulong to, IntPtr from, UIntPtr bytes);
        [DllImport(Driver)] private static extern int cuMemcpyDtoH_v2(IntPtr to, ulong from, UIntPtr bytes);
        [DllImport(Driver)] private static extern int cuStreamCreate(out IntPtr stream, uint flags);
        [DllImport(Driver)] private static extern int cuStreamDestroy_v2(IntPtr stream);
        [DllImport(Driver)] private static extern int cuStreamSynchronize(IntPtr stream);
    }

    // Keeps a handle from being released while it is used; throws ObjectDisposedException where it is closed already.
    internal struct Hold : IDisposable
    {
        private readonly SafeHandle held;

        internal Hold(SafeHandle handle)
        {
            bool done = false;
            handle.DangerousAddRef(ref done);
            held = handle;
        }

        public void Dispose()
        {
            held.DangerousRelease();
        }
    }

    /// <summary>Memory that a tensor may lie in.</summary>
    public abstract class DeviceMemory : SafeHandleZeroOrMinusOneIsInvalid
    {
        private readonly Device device;
        private readonly IntPtr whole;

        internal DeviceMemory(Device device, long length, DType dtype, int elementBytes) : base(true)
        {
            if (length < 0) throw FlashqlaException.Invalid("a buffer of " + length + " elements");
            ulong bytes;
            try
            {
                bytes = checked((ulong)length * (ulong)elementBytes);
            }
            catch (OverflowException)
            {
                throw new FlashqlaException(Status.OutOfMemory, length + " elements could not be had");
            }
            this.device = device;
            Length = length;
            DType = dtype;
            Bytes = bytes;
            new Hold(device); // until ReleaseHandle
            try
            {
                SetHandle(device.Allocate(Math.Max(bytes, 1), out whole));
            }
            catch
            {
                device.DangerousRelease();
                throw;
            }
        }

        public long Length { get; }
        internal DType DType { get; }
        internal ulong Bytes { get; }

        internal Device On
        {
            get { return device; }
        }

        protected override bool ReleaseHandle()
        {
            device.Free(whole);
            device.DangerousRelease();
            return true;
        }
    }

    /// <summary>Memory of a device. Waits for all work on the device before it is freed.</summary>
    public sealed class Buffer<T> : DeviceMemory where T : struct
    {
        internal Buffer(Device device, long length) : base(device, length, Elements.DTypeOf(typeof(T)), Marshal.SizeOf(typeof(T)))
        {
        }

        /// <summary>A part of it.</summary>
        public Tensor Part(long first, long count)
        {
            if (first < 0 || count < 0 || first > Length || count > Length - first) throw new ArgumentOutOfRangeException("first");
            return new Tensor(this, null, new IntPtr(first * Marshal.SizeOf(typeof(T))), count, DType, Marshal.SizeOf(typeof(T)), On.Ordinal);
        }

        /// <summary>Copies all of it from the host; done on return.</summary>
        public void Upload(T[] from)
        {
            Copy(from, true);
        }

        /// <summary>Copies all of it to the host; done on return. Waits for the default stream only: synchronize others first.</summary>
        public void Download(T[] to)
        {
            Copy(to, false);
        }

        public T[] Download()
        {
            var to = new T[Length];
            Download(to);
            return to;
        }

        private void Copy(T[] host, bool up)
        {
            if (host.LongLength != Length) throw FlashqlaException.Invalid(host.LongLength + " elements for a buffer of " + Length);
            var pinned = GCHandle.Alloc(host, GCHandleType.Pinned);
            try
            {
                using (new Hold(this))
                    if (Length > 0 && up)
                        On.CopyIn(handle, pinned.AddrOfPinnedObject(), Bytes);
                    else if (Length > 0)
                        On.CopyOut(pinned.AddrOfPinnedObject(), handle, Bytes);
            }
            finally
            {
                pinned.Free();
            }
        }
    }

    /// <summary>A CUDA stream that does not wait for the default one; on the CPU, the default one.</summary>
    public sealed class CudaStream : SafeHandleZeroOrMinusOneIsInvalid
    {
        private readonly Device device; // null: somebody else's stream

        public CudaStream(Device device) : base(true)
        {
            SetHandle(device.CreateStream());
            if (IsInvalid) return;
            this.device = device;
            new Hold(device); // until ReleaseHandle
        }

        /// <summary>A stream of someone else's, who destroys it.</summary>
        public CudaStream(IntPtr stream) : base(false)
        {
            SetHandle(stream);
        }

        public void Synchronize()
        {
            using (new Hold(this))
                if (device != null) device.SynchronizeStream(handle);
        }

        protected override bool ReleaseHandle()
        {
            if (device == null) return true;
            device.DestroyStream(handle);
            device.DangerousRelease();
            return true;
        }
    }
}
