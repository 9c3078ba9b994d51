//! Borrowed memory: what a call reads and what it writes, with length, dtype and device.

use crate::{sys, Buffer, Dtype, CPU};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::size_of;
use std::ops::{Bound, RangeBounds};

/// A bfloat16 by its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

/// An IEEE half by its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F16(pub u16);

/// Types that memory of the library may hold.
///
/// # Safety
/// The type has the layout that `DTYPE` says, and every bit pattern is one of its values: the library writes what it likes.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// What the library calls it.
    const DTYPE: Dtype;
}

unsafe impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}
unsafe impl Element for Bf16 {
    const DTYPE: Dtype = Dtype::BF16;
}
unsafe impl Element for F16 {
    const DTYPE: Dtype = Dtype::F16;
}
unsafe impl Element for f64 {
    const DTYPE: Dtype = Dtype::F64;
}
unsafe impl Element for i32 {
    const DTYPE: Dtype = Dtype::I32;
}
unsafe impl Element for i64 {
    const DTYPE: Dtype = Dtype::I64;
}
/// Workspace and saved.
unsafe impl Element for u8 {
    const DTYPE: Dtype = Dtype::DEFAULT;
}

/// What both kinds know. Only an address: whoever makes one says what may be done with it, and for how long.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub data: *mut c_void,
    pub dtype: Dtype,
    pub elements: usize,
    pub bytes: usize,
    pub device: i32,
    pub strides: [i64; 3],
}

impl View {
    const NULL: View = View { data: std::ptr::null_mut(), dtype: Dtype::DEFAULT, elements: 0, bytes: 0, device: CPU, strides: [0; 3] };

    fn of<T: Element>(data: *mut T, elements: usize, device: i32) -> View {
        View { data: data.cast(), dtype: T::DTYPE, elements, bytes: elements * size_of::<T>(), device, strides: [0; 3] }
    }

    pub fn tensor(&self) -> sys::flashqla_tensor {
        let [stride_row, stride_token, stride_head] = self.strides;
        sys::flashqla_tensor { data: self.data, dtype: self.dtype.0, reserved0: 0, stride_row, stride_token, stride_head, reserved: [0; 2] }
    }
}

/// Memory that a call reads. The default is NULL: the field is not used.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub(crate) view: View,
    life: PhantomData<&'a [u8]>,
}

/// Memory that a call writes, and nobody else uses meanwhile. The default is NULL: the field is not used.
pub struct Output<'a> {
    pub(crate) view: View,
    life: PhantomData<&'a mut [u8]>,
}

// They are slices but for their type, and every element is Send and Sync.
unsafe impl Send for Input<'_> {}
unsafe impl Sync for Input<'_> {}
unsafe impl Send for Output<'_> {}
unsafe impl Sync for Output<'_> {}

impl Default for Input<'_> {
    fn default() -> Self {
        Input { view: View::NULL, life: PhantomData }
    }
}

impl Default for Output<'_> {
    fn default() -> Self {
        Output { view: View::NULL, life: PhantomData }
    }
}

impl<'a> Input<'a> {
    /// With strides in elements, from row to row, token to token and head to head. All zero: packed.
    pub fn strides(mut self, row: i64, token: i64, head: i64) -> Self {
        self.view.strides = [row, token, head];
        self
    }

    /// Memory of someone else's, on `device` (a CUDA ordinal, or [`CPU`]).
    ///
    /// # Safety
    /// For all of `'a`, and until the work enqueued by calls that use it has completed, `data` is `elements` of `T` there.
    pub unsafe fn from_raw<T: Element>(data: *const T, elements: usize, device: i32) -> Input<'a> {
        Input { view: View::of(data as *mut T, elements, device), life: PhantomData }
    }
}

impl<'a> Output<'a> {
    /// With strides in elements, from row to row, token to token and head to head. All zero: packed.
    pub fn strides(mut self, row: i64, token: i64, head: i64) -> Self {
        self.view.strides = [row, token, head];
        self
    }

    /// Memory of someone else's, on `device` (a CUDA ordinal, or [`CPU`]).
    ///
    /// # Safety
    /// As [`Input::from_raw`], and nothing else reads or writes it meanwhile.
    pub unsafe fn from_raw<T: Element>(data: *mut T, elements: usize, device: i32) -> Output<'a> {
        Output { view: View::of(data, elements, device), life: PhantomData }
    }
}

impl<'a, T: Element> From<&'a [T]> for Input<'a> {
    fn from(memory: &'a [T]) -> Self {
        unsafe { Input::from_raw(memory.as_ptr(), memory.len(), CPU) }
    }
}

impl<'a, T: Element> From<&'a Vec<T>> for Input<'a> {
    fn from(memory: &'a Vec<T>) -> Self {
        memory.as_slice().into()
    }
}

impl<'a, T: Element> From<&'a Buffer<'_, T>> for Input<'a> {
    fn from(memory: &'a Buffer<'_, T>) -> Self {
        memory.part(..)
    }
}

impl<'a, T: Element> From<&'a mut [T]> for Output<'a> {
    fn from(memory: &'a mut [T]) -> Self {
        unsafe { Output::from_raw(memory.as_mut_ptr(), memory.len(), CPU) }
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for Output<'a> {
    fn from(memory: &'a mut Vec<T>) -> Self {
        memory.as_mut_slice().into()
    }
}

impl<'a, T: Element> From<&'a mut Buffer<'_, T>> for Output<'a> {
    fn from(memory: &'a mut Buffer<'_, T>) -> Self {
        memory.part_mut(..)
    }
}

/// First and length of a range of `len` elements; panics where it lies outside, as slices do.
pub(crate) fn resolve(range: impl RangeBounds<usize>, len: usize) -> (usize, usize) {
    let first = match range.start_bound() {
        Bound::Included(&i) => i,
        Bound::Excluded(&i) => i + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&i) => i + 1,
        Bound::Excluded(&i) => i,
        Bound::Unbounded => len,
    };
    assert!(first <= end && end <= len, "range {}..{} of {} elements", first, end, len);
    (first, end - first)
}
