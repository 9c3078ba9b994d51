//! Device memory and streams for programs that have no CUDA of their own, over the driver opened by dlopen. A negative ordinal is the CPU,
//! where memory is host memory and everything is done when a call returns.

use crate::memory::{resolve, Element, Input, Output};
use crate::{Error, Result, Status, CPU};
use std::alloc::{alloc_zeroed, dealloc, Layout};
use std::ffi::{c_void, CStr, CString};
use std::mem::{size_of, size_of_val};
use std::ops::RangeBounds;
use std::os::raw::{c_char, c_int, c_uint, c_ulonglong};
use std::ptr::{copy_nonoverlapping, null, null_mut};

#[link(name = "dl")]
extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The driver's functions: a member, the exported name (the oldest with these parameters), the parameters.
macro_rules! driver {
    ($($member:ident = $name:literal ($($parameter:ty),*);)*) => {
        struct Driver {
            $($member: unsafe extern "C" fn($($parameter),*) -> c_int,)*
        }
        impl Driver {
            /// Never closed: the driver does not expect to be.
            fn open() -> Result<Driver> {
                let name = CString::new("libcuda.so.1").unwrap();
                let library = unsafe { dlopen(name.as_ptr(), 2) };
                if library.is_null() {
                    return Err(failure(Status::NO_DRIVER, "no CUDA driver: libcuda.so.1 could not be opened".into()));
                }
                Ok(Driver {
                    $($member: {
                        let name = CString::new($name).unwrap();
                        let address = unsafe { dlsym(library, name.as_ptr()) };
                        if address.is_null() {
                            return Err(failure(Status::DRIVER_TOO_OLD, format!("the CUDA driver has no {}: too old", $name)));
                        }
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($parameter),*) -> c_int>(address) }
                    },)*
                })
            }
        }
    };
}

driver! {
    init = "cuInit" (c_uint);
    error_name = "cuGetErrorName" (c_int, *mut *const c_char);
    device_get = "cuDeviceGet" (*mut c_int, c_int);
    context_retain = "cuDevicePrimaryCtxRetain" (*mut *mut c_void, c_int);
    context_release = "cuDevicePrimaryCtxRelease_v2" (c_int);
    context_set = "cuCtxSetCurrent" (*mut c_void);
    context_sync = "cuCtxSynchronize" ();
    mem_alloc = "cuMemAlloc_v2" (*mut c_ulonglong, usize);
    mem_free = "cuMemFree_v2" (c_ulonglong);
    mem_set = "cuMemsetD8_v2" (c_ulonglong, u8, usize);
    mem_upload = "cuMemcpyHtoD_v2" (c_ulonglong, *const c_void, usize);
    mem_download = "cuMemcpyDtoH_v2" (*mut c_void, c_ulonglong, usize);
    stream_create = "cuStreamCreate" (*mut *mut c_void, c_uint);
    stream_destroy = "cuStreamDestroy_v2" (*mut c_void);
    stream_sync = "cuStreamSynchronize" (*mut c_void);
}

fn failure(status: Status, message: String) -> Error {
    Error { status, message }
}

impl Driver {
    fn check(&self, code: c_int, what: &str) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let mut name = null();
        unsafe { (self.error_name)(code, &mut name) };
        let name = if name.is_null() { "unknown CUDA error".into() } else { unsafe { CStr::from_ptr(name) }.to_string_lossy() };
        Err(failure(Status::CUDA_ERROR, format!("{}: {} ({})", what, name, code)))
    }
}

struct Cuda {
    driver: Driver,
    device: c_int,
    context: *mut c_void,
}

/// A device's primary context, or the CPU.
pub struct Device {
    ordinal: i32,
    cuda: Option<Cuda>,
}

// The driver takes calls from any thread, and a context may be current on many.
unsafe impl Send for Device {}
unsafe impl Sync for Device {}

impl Device {
    /// Opens a CUDA device and makes its primary context current on this thread; a negative ordinal opens the CPU.
    pub fn open(ordinal: i32) -> Result<Device> {
        if ordinal < 0 {
            return Ok(Device { ordinal: CPU, cuda: None });
        }
        let driver = Driver::open()?;
        let (mut device, mut context) = (0, null_mut());
        unsafe {
            driver.check((driver.init)(0), "cuInit")?;
            driver.check((driver.device_get)(&mut device, ordinal), "cuDeviceGet")?;
            driver.check((driver.context_retain)(&mut context, device), "cuDevicePrimaryCtxRetain")?;
        }
        let opened = Device { ordinal, cuda: Some(Cuda { driver, device, context }) };
        opened.attach()?;
        Ok(opened)
    }

    /// [`CPU`] or the CUDA ordinal.
    pub fn ordinal(&self) -> i32 {
        self.ordinal
    }

    /// The driver, with this device's context current on the calling thread.
    fn driver(&self) -> Result<Option<&Driver>> {
        let cuda = match &self.cuda {
            None => return Ok(None),
            Some(cuda) => cuda,
        };
        cuda.driver.check(unsafe { (cuda.driver.context_set)(cuda.context) }, "cuCtxSetCurrent")?;
        Ok(Some(&cuda.driver))
    }

    /// Makes the context current on the calling thread, which every thread that makes calls on a CUDA handle does once.
    pub fn attach(&self) -> Result<()> {
        self.driver().map(|_| ())
    }

    /// Waits for all work on the device.
    pub fn synchronize(&self) -> Result<()> {
        match self.driver()? {
            Some(driver) => driver.check(unsafe { (driver.context_sync)() }, "cuCtxSynchronize"),
            None => Ok(()),
        }
    }

    /// `len` zeros, aligned to 256 bytes.
    pub fn alloc<T: Element>(&self, len: usize) -> Result<Buffer<'_, T>> {
        let out_of_memory = || failure(Status::OUT_OF_MEMORY, format!("{} elements could not be had", len));
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(out_of_memory)?.max(1);
        let data = match self.driver()? {
            Some(driver) => {
                let mut address = 0;
                unsafe {
                    driver.check((driver.mem_alloc)(&mut address, bytes), "cuMemAlloc")?;
                    let zeroed = driver.check((driver.mem_set)(address, 0, bytes), "cuMemsetD8");
                    let done = zeroed.and_then(|_| driver.check((driver.stream_sync)(null_mut()), "cuStreamSynchronize"));
                    if done.is_err() {
                        (driver.mem_free)(address);
                    }
                    done?;
                }
                address as usize as *mut T
            }
            None => {
                let layout = Layout::from_size_align(bytes, 256).map_err(|_| out_of_memory())?;
                let data = unsafe { alloc_zeroed(layout) };
                if data.is_null() {
                    return Err(out_of_memory());
                }
                data.cast()
            }
        };
        Ok(Buffer { device: self, data, len })
    }

    /// A buffer with a copy of `from`.
    pub fn upload<T: Element>(&self, from: &[T]) -> Result<Buffer<'_, T>> {
        let mut buffer = self.alloc(from.len())?;
        buffer.upload(from)?;
        Ok(buffer)
    }

    /// A stream that does not wait for the default one; CPU: the default one.
    pub fn stream(&self) -> Result<Stream<'_>> {
        let mut raw = null_mut();
        if let Some(driver) = self.driver()? {
            driver.check(unsafe { (driver.stream_create)(&mut raw, 1) }, "cuStreamCreate")?;
        }
        Ok(Stream { raw, device: Some(self) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(cuda) = &self.cuda {
            unsafe {
                (cuda.driver.context_set)(null_mut());
                (cuda.driver.context_release)(cuda.device);
            }
        }
    }
}

/// Memory of a device. Waits for all work on the device before it is freed, so that nothing enqueued can outlive it.
pub struct Buffer<'d, T: Element> {
    device: &'d Device,
    data: *mut T,
    len: usize,
}

// It owns its memory and hands out none of it but by borrowed views.
unsafe impl<T: Element> Send for Buffer<'_, T> {}
unsafe impl<T: Element> Sync for Buffer<'_, T> {}

impl<T: Element> Buffer<'_, T> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of it, to be read by a call.
    pub fn part(&self, range: impl RangeBounds<usize>) -> Input<'_> {
        let (first, len) = resolve(range, self.len);
        unsafe { Input::from_raw(self.data.add(first), len, self.device.ordinal) }
    }

    /// A part of it, to be written by a call.
    pub fn part_mut(&mut self, range: impl RangeBounds<usize>) -> Output<'_> {
        let (first, len) = resolve(range, self.len);
        unsafe { Output::from_raw(self.data.add(first), len, self.device.ordinal) }
    }

    fn same_length(&self, len: usize) -> Result<()> {
        if len == self.len {
            return Ok(());
        }
        Err(Error::invalid(format!("{} elements for a buffer of {}", len, self.len)))
    }

    /// Copies all of it from the host; done on return.
    pub fn upload(&mut self, from: &[T]) -> Result<()> {
        self.same_length(from.len())?;
        match self.device.driver()? {
            Some(driver) => unsafe {
                let bytes = size_of_val(from);
                driver.check((driver.mem_upload)(self.data as usize as u64, from.as_ptr().cast(), bytes), "cuMemcpyHtoD")?;
                driver.check((driver.stream_sync)(null_mut()), "cuStreamSynchronize")
                // pageable memory may be on its way still
            },
            None => {
                unsafe { copy_nonoverlapping(from.as_ptr(), self.data, from.len()) };
                Ok(())
            }
        }
    }

    /// Copies all of it to the host; done on return. Waits for the default stream only: synchronize others first.
    pub fn download(&self, to: &mut [T]) -> Result<()> {
        self.same_length(to.len())?;
        match self.device.driver()? {
            Some(driver) => {
                let code = unsafe { (driver.mem_download)(to.as_mut_ptr().cast(), self.data as usize as u64, size_of_val(to)) };
                driver.check(code, "cuMemcpyDtoH")
            }
            None => {
                unsafe { copy_nonoverlapping(self.data, to.as_mut_ptr(), to.len()) };
                Ok(())
            }
        }
    }
}

impl<T: Element> Drop for Buffer<'_, T> {
    fn drop(&mut self) {
        match self.device.driver() {
            Ok(Some(driver)) => unsafe {
                (driver.context_sync)();
                (driver.mem_free)(self.data as usize as u64);
            },
            Ok(None) => unsafe {
                dealloc(self.data.cast(), Layout::from_size_align_unchecked((self.len * size_of::<T>()).max(1), 256));
            },
            Err(_) => (), // the context is gone, and the memory with it
        }
    }
}

/// A CUDA stream, or the default one.
pub struct Stream<'d> {
    raw: *mut c_void,
    device: Option<&'d Device>,
}

// The driver takes calls on a stream from any thread.
unsafe impl Send for Stream<'_> {}
unsafe impl Sync for Stream<'_> {}

impl Stream<'_> {
    /// The current context's default stream; the only one on the CPU.
    pub const DEFAULT: Stream<'static> = Stream { raw: null_mut(), device: None };

    /// A stream of someone else's, who destroys it.
    ///
    /// # Safety
    /// `raw` is a CUstream (cudaStream_t) that lives as long as this does, of the context that is current where calls are made on it.
    pub unsafe fn from_raw<'a>(raw: *mut c_void) -> Stream<'a> {
        Stream { raw, device: None }
    }

    pub(crate) fn raw(&self) -> *mut c_void {
        self.raw
    }

    /// Waits for what is enqueued on a stream that a [`Device`] made.
    pub fn synchronize(&self) -> Result<()> {
        match self.device.map_or(Ok(None), Device::driver)? {
            Some(driver) => driver.check(unsafe { (driver.stream_sync)(self.raw) }, "cuStreamSynchronize"),
            None => Ok(()),
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if let (false, Some(Ok(Some(driver)))) = (self.raw.is_null(), self.device.map(Device::driver)) {
            unsafe { (driver.stream_destroy)(self.raw) };
        }
    }
}
