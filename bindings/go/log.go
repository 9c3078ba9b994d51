package flashqla

// #include <stdint.h>
import "C"

import "runtime/cgo"

type logFunc = func(level LogLevel, message string)

//export fqlaGoLog
func fqlaGoLog(user C.uintptr_t, level C.int32_t, message *C.char) {
	cgo.Handle(user).Value().(logFunc)(LogLevel(level), C.GoString(message))
}
