package flashqla

import (
	"sync"
	"unsafe"
)

// lifetime frees something once it is closed and nobody uses it any more.
type lifetime struct {
	mutex  sync.Mutex
	users  int
	closed bool
	free   func()
}

// acquire tells whether it may be used; release must then follow.
func (l *lifetime) acquire() bool {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.closed || l.free == nil {
		return false
	}
	l.users++
	return true
}

func (l *lifetime) release() {
	l.mutex.Lock()
	l.users--
	last := l.closed && l.users == 0
	l.mutex.Unlock()
	if last {
		l.free()
	}
}

func (l *lifetime) close() {
	l.mutex.Lock()
	last := !l.closed && l.users == 0 && l.free != nil
	l.closed = true
	l.mutex.Unlock()
	if last {
		l.free()
	}
}

// BFloat16 is a bfloat16 by its bits.
type BFloat16 uint16

// Float16 is an IEEE half by its bits.
type Float16 uint16

// Element is what memory of the library may hold; byte is for workspace and saved.
type Element interface {
	float32 | BFloat16 | Float16 | float64 | int32 | int64 | byte
}

func dtypeOf[T Element]() DType {
	var zero T
	switch any(zero).(type) {
	case float32:
		return F32
	case BFloat16:
		return BF16
	case Float16:
		return F16
	case float64:
		return F64
	case int32:
		return I32
	case int64:
		return I64
	}
	return DefaultDType
}

// block is memory outside of Go's: of a device, or of C.
type block struct {
	data   unsafe.Pointer
	device int
	life   lifetime
}

// Tensor is memory that a call reads or writes, with its length. The zero Tensor is NULL: the field is not used.
type Tensor struct {
	block            *block
	offset           uintptr
	elements         int
	dtype            DType
	row, token, head int64
}

// Strided is the tensor with strides in elements, from row to row, token to token and head to head. All zero: packed.
func (t Tensor) Strided(row, token, head int64) Tensor {
	t.row, t.token, t.head = row, token, head
	return t
}

// RawTensor is memory of someone else's on a device (a CUDA ordinal, or CPU): never memory of Go's, which C must not keep. It lives until the
// work that uses it is done.
func RawTensor[T Element](data *T, elements, device int) Tensor {
	if data == nil {
		return Tensor{}
	}
	b := &block{data: unsafe.Pointer(data), device: device}
	b.life.free = func() {}
	return Tensor{b, 0, elements, dtypeOf[T](), 0, 0, 0}
}

func (t Tensor) isNull() bool { return t.block == nil }

func (t Tensor) address() unsafe.Pointer {
	if t.block == nil {
		return nil
	}
	return unsafe.Add(t.block.data, t.offset)
}
