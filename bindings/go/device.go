package flashqla

/*
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The driver's functions: the member here, the exported name (the oldest with these parameters), the parameters.
#define FUNCTIONS(X)                                                                          \
	X(init, "cuInit", (unsigned flags))                                                       \
	X(error_name, "cuGetErrorName", (int error, const char **name))                           \
	X(device_get, "cuDeviceGet", (int *device, int ordinal))                                  \
	X(context_retain, "cuDevicePrimaryCtxRetain", (void **context, int device))               \
	X(context_release, "cuDevicePrimaryCtxRelease_v2", (int device))                          \
	X(context_set, "cuCtxSetCurrent", (void *context))                                        \
	X(context_sync, "cuCtxSynchronize", (void))                                               \
	X(mem_alloc, "cuMemAlloc_v2", (unsigned long long *address, size_t bytes))                \
	X(mem_free, "cuMemFree_v2", (unsigned long long address))                                 \
	X(mem_set, "cuMemsetD8_v2", (unsigned long long to, unsigned char value, size_t bytes))   \
	X(mem_upload, "cuMemcpyHtoD_v2", (unsigned long long to, const void *from, size_t bytes)) \
	X(mem_download, "cuMemcpyDtoH_v2", (void *to, unsigned long long from, size_t bytes))     \
	X(stream_create, "cuStreamCreate", (void **stream, unsigned flags))                       \
	X(stream_destroy, "cuStreamDestroy_v2", (void *stream))                                   \
	X(stream_sync, "cuStreamSynchronize", (void *stream))

static struct {
#define MEMBER(member, name, parameters) int(*member) parameters;
	FUNCTIONS(MEMBER)
} cu;

typedef struct { char text[192]; } problem_text;

static int failed(int result, const char *what, problem_text *error) {
	const char *name = NULL;
	if (!result) return 0;
	if (cu.error_name) cu.error_name(result, &name);
	snprintf(error->text, sizeof error->text, "%s: %s (%d)", what, name ? name : "unknown CUDA error", result);
	return 1;
}

// Each of the following sets the context first, so that one cgo call is right on whatever thread it comes.
#define TRY(what, call) if (failed(call, what, error)) return 1

// 1: no driver; 2: too old; 3: another error. Never closed: the driver does not expect to be.
static int device_load(problem_text *error) {
	void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL), *address;
	if (!library) return snprintf(error->text, sizeof error->text, "no CUDA driver: libcuda.so.1 could not be opened"), 1;
#define RESOLVE(member, name, parameters)                                                                                            \
	address = dlsym(library, name);                                                                                                  \
	if (!address) return snprintf(error->text, sizeof error->text, "the CUDA driver has no %s: too old", name), 2;                   \
	memcpy(&cu.member, &address, sizeof address);
	FUNCTIONS(RESOLVE)
	return failed(cu.init(0), "cuInit", error) ? 3 : 0;
}

static int device_open(int ordinal, int *device, void **context, problem_text *error) {
	TRY("cuDeviceGet", cu.device_get(device, ordinal));
	TRY("cuDevicePrimaryCtxRetain", cu.context_retain(context, *device));
	return 0;
}

static void device_close(int device) { cu.context_release(device); }

static int device_attach(void *context, problem_text *error) {
	TRY("cuCtxSetCurrent", cu.context_set(context));
	return 0;
}

static int device_sync(void *context, problem_text *error) {
	TRY("cuCtxSetCurrent", cu.context_set(context));
	TRY("cuCtxSynchronize", cu.context_sync());
	return 0;
}

static int device_alloc(void *context, size_t bytes, void **out, problem_text *error) {
	unsigned long long address = 0;
	TRY("cuCtxSetCurrent", cu.context_set(context));
	TRY("cuMemAlloc", cu.mem_alloc(&address, bytes));
	*out = (void *)address;
	TRY("cuMemsetD8", cu.mem_set(address, 0, bytes));
	TRY("cuStreamSynchronize", cu.stream_sync(NULL));
	return 0;
}

static void device_free(void *context, void *memory) {
	if (cu.context_set(context)) return; // the context is gone, and the memory with it
	cu.context_sync();
	cu.mem_free((unsigned long long)memory);
}

// From pageable memory the copy may return before the bytes have arrived: the second call waits for them.
static int device_upload(void *context, void *to, const void *from, size_t bytes, problem_text *error) {
	TRY("cuCtxSetCurrent", cu.context_set(context));
	TRY("cuMemcpyHtoD", cu.mem_upload((unsigned long long)to, from, bytes));
	TRY("cuStreamSynchronize", cu.stream_sync(NULL));
	return 0;
}

static int device_download(void *context, void *to, const void *from, size_t bytes, problem_text *error) {
	TRY("cuCtxSetCurrent", cu.context_set(context));
	TRY("cuMemcpyDtoH", cu.mem_download(to, (unsigned long long)from, bytes));
	return 0;
}

static int device_stream(void *context, void **stream, problem_text *error) {
	TRY("cuCtxSetCurrent", cu.context_set(context));
	TRY("cuStreamCreate", cu.stream_create(stream, 1));
	return 0;
}

static int device_stream_sync(void *context, void *stream, problem_text *error) {
	TRY("cuCtxSetCurrent", cu.context_set(context));
	TRY("cuStreamSynchronize", cu.stream_sync(stream));
	return 0;
}

static void device_stream_destroy(void *context, void *stream) {
	if (!cu.context_set(context)) cu.stream_destroy(stream);
}

static void *host_alloc(size_t bytes) {
	void *memory = NULL;
	return posix_memalign(&memory, 256, bytes) ? NULL : memset(memory, 0, bytes);
}
*/
import "C"

import (
	"fmt"
	"sync"
	"unsafe"
)

// Device is the primary context of a CUDA device, or the CPU: device memory and streams for programs that have no CUDA of their own. The
// driver is opened by dlopen. On the CPU memory is host memory (of C, never of Go) and everything is done when a call returns.
type Device struct {
	ordinal int
	device  C.int
	context unsafe.Pointer
	life    lifetime
}

var (
	loadOnce  sync.Once
	loadError error
)

func cudaError(failed C.int, text *C.problem_text) error {
	if failed == 0 {
		return nil
	}
	return &Error{StatusCUDAError, C.GoString(&text.text[0])}
}

// Open opens a CUDA device; a negative ordinal opens the CPU. Close it after its buffers and streams, or before: it lives as long as they.
func Open(ordinal int) (*Device, error) {
	d := &Device{ordinal: CPU}
	if ordinal < 0 {
		d.life.free = func() {}
		return d, nil
	}
	loadOnce.Do(func() {
		var text C.problem_text
		if failed := C.device_load(&text); failed != 0 {
			status := []Status{StatusNoDriver, StatusDriverTooOld, StatusCUDAError}[failed-1]
			loadError = &Error{status, C.GoString(&text.text[0])}
		}
	})
	if loadError != nil {
		return nil, loadError
	}
	d.ordinal = ordinal
	var text C.problem_text
	if err := cudaError(C.device_open(C.int(ordinal), &d.device, &d.context, &text), &text); err != nil {
		return nil, err
	}
	d.life.free = func() { C.device_close(d.device) }
	return d, nil
}

// Close lets go of the device's context, once its buffers and streams are closed too.
func (d *Device) Close() { d.life.close() }

// Ordinal is CPU or the CUDA ordinal.
func (d *Device) Ordinal() int { return d.ordinal }

func (d *Device) acquire() error {
	if d == nil || !d.life.acquire() {
		return &Error{StatusInvalidArgument, "the device is closed"}
	}
	return nil
}

// attach makes the context current on the calling thread, which the caller has locked.
func (d *Device) attach() error {
	if d.context == nil {
		return nil
	}
	var text C.problem_text
	return cudaError(C.device_attach(d.context, &text), &text)
}

// Synchronize waits for all work on the device.
func (d *Device) Synchronize() error {
	if err := d.acquire(); err != nil {
		return err
	}
	defer d.life.release()
	if d.context == nil {
		return nil
	}
	var text C.problem_text
	return cudaError(C.device_sync(d.context, &text), &text)
}

// Buffer is memory of a device that Close frees, after all work on the device is done and no call uses it any more.
type Buffer[T Element] struct {
	device *Device
	block  *block
	n      int
}

// Alloc makes a buffer of n zeros, aligned to 256 bytes.
func Alloc[T Element](d *Device, n int) (*Buffer[T], error) {
	var zero T
	size := int(unsafe.Sizeof(zero))
	if n < 0 || n > (1<<62)/size {
		return nil, &Error{StatusInvalidArgument, fmt.Sprintf("a buffer of %d elements", n)}
	}
	if err := d.acquire(); err != nil {
		return nil, err
	}
	bytes := n * size
	if bytes == 0 {
		bytes = 1
	}
	var data unsafe.Pointer
	var err error
	if d.context != nil {
		var text C.problem_text
		err = cudaError(C.device_alloc(d.context, C.size_t(bytes), &data, &text), &text)
	} else if data = C.host_alloc(C.size_t(bytes)); data == nil {
		err = &Error{StatusOutOfMemory, fmt.Sprintf("%d bytes could not be had", bytes)}
	}
	free := func() {
		if d.context != nil {
			C.device_free(d.context, data)
		} else {
			C.free(data)
		}
	}
	if err != nil {
		if data != nil {
			free()
		}
		d.life.release()
		return nil, err
	}
	b := &block{data: data, device: d.ordinal}
	b.life.free = func() { free(); d.life.release() }
	return &Buffer[T]{d, b, n}, nil
}

// Upload makes a buffer with a copy of from.
func Upload[T Element](d *Device, from []T) (*Buffer[T], error) {
	b, err := Alloc[T](d, len(from))
	if err != nil {
		return nil, err
	}
	if err := b.Upload(from); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Close frees the memory, once no call uses it any more. Tensors of it are refused from then on.
func (b *Buffer[T]) Close() { b.block.life.close() }

// Len is the number of elements.
func (b *Buffer[T]) Len() int { return b.n }

// All is the whole buffer as a tensor.
func (b *Buffer[T]) All() Tensor { return Tensor{b.block, 0, b.n, dtypeOf[T](), 0, 0, 0} }

// Slice is n elements from first on as a tensor; it panics where they lie outside, as slices do.
func (b *Buffer[T]) Slice(first, n int) Tensor {
	if first < 0 || n < 0 || first > b.n || n > b.n-first {
		panic(fmt.Sprintf("flashqla: %d elements from %d on of a buffer of %d", n, first, b.n))
	}
	var zero T
	return Tensor{b.block, uintptr(first) * unsafe.Sizeof(zero), n, dtypeOf[T](), 0, 0, 0}
}

// use checks the length and holds the memory; bytes is 0 where there is nothing to copy.
func (b *Buffer[T]) use(n int) (release func(), bytes C.size_t, err error) {
	if n != b.n {
		return nil, 0, &Error{StatusInvalidArgument, fmt.Sprintf("%d elements for a buffer of %d", n, b.n)}
	}
	if !b.block.life.acquire() {
		return nil, 0, &Error{StatusInvalidArgument, "the buffer is closed"}
	}
	var zero T
	return b.block.life.release, C.size_t(n) * C.size_t(unsafe.Sizeof(zero)), nil
}

// Upload copies all of the buffer from Go; done on return.
func (b *Buffer[T]) Upload(from []T) error {
	release, bytes, err := b.use(len(from))
	if err != nil {
		return err
	}
	defer release()
	if bytes == 0 {
		return nil
	}
	if b.device.context == nil {
		copy(unsafe.Slice((*T)(b.block.data), b.n), from)
		return nil
	}
	var text C.problem_text
	return cudaError(C.device_upload(b.device.context, b.block.data, unsafe.Pointer(&from[0]), bytes, &text), &text)
}

// Download copies all of the buffer to Go; done on return. It waits for the default stream only: synchronize others first.
func (b *Buffer[T]) Download(to []T) error {
	release, bytes, err := b.use(len(to))
	if err != nil {
		return err
	}
	defer release()
	if bytes == 0 {
		return nil
	}
	if b.device.context == nil {
		copy(to, unsafe.Slice((*T)(b.block.data), b.n))
		return nil
	}
	var text C.problem_text
	return cudaError(C.device_download(b.device.context, unsafe.Pointer(&to[0]), b.block.data, bytes, &text), &text)
}

// Stream is a CUDA stream, with the device whose context calls on it need. The zero Stream is the default stream of whatever context is
// current on the calling thread: the CPU has no other, and with CUDA the caller has locked the thread and set the context.
type Stream struct {
	device *Device
	raw    unsafe.Pointer
	life   *lifetime
}

// RawStream is a stream of someone else's. The caller has locked the thread and made the stream's context current.
func RawStream(raw unsafe.Pointer) Stream { return Stream{raw: raw} }

// DefaultStream is the default stream of the device's primary context.
func (d *Device) DefaultStream() Stream { return Stream{device: d} }

// NewStream makes a stream that does not wait for the default one; on the CPU it is the default one.
func (d *Device) NewStream() (Stream, error) {
	if err := d.acquire(); err != nil {
		return Stream{}, err
	}
	s := Stream{device: d, life: &lifetime{}}
	if d.context != nil {
		var text C.problem_text
		if err := cudaError(C.device_stream(d.context, &s.raw, &text), &text); err != nil {
			d.life.release()
			return Stream{}, err
		}
	}
	raw := s.raw
	s.life.free = func() {
		if raw != nil {
			C.device_stream_destroy(d.context, raw)
		}
		d.life.release()
	}
	return s, nil
}

// Close destroys a stream of NewStream's; what is enqueued goes on.
func (s Stream) Close() {
	if s.life != nil {
		s.life.close()
	}
}

// acquire holds the stream and its device; release must follow where there is no error.
func (s Stream) acquire() error {
	if s.life != nil && !s.life.acquire() {
		return &Error{StatusInvalidArgument, "the stream is closed"}
	}
	if s.device != nil && !s.device.life.acquire() {
		if s.life != nil {
			s.life.release()
		}
		return &Error{StatusInvalidArgument, "the device is closed"}
	}
	return nil
}

func (s Stream) release() {
	if s.device != nil {
		s.device.life.release()
	}
	if s.life != nil {
		s.life.release()
	}
}

// Synchronize waits for what is enqueued on a stream that a Device made.
func (s Stream) Synchronize() error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	if s.device == nil || s.device.context == nil {
		return nil
	}
	var text C.problem_text
	return cudaError(C.device_stream_sync(s.device.context, s.raw, &text), &text)
}
