package output

import "unsafe"

//go:wasmimport whirlpool log
func hostLog(level int32, address unsafe.Pointer, length uint32)

//go:wasmimport whirlpool metric
func hostMetric(kind int32, name unsafe.Pointer, length uint32, value float64)

func log(level int32, text string) {
	hostLog(level, unsafe.Pointer(unsafe.StringData(text)), uint32(len(text)))
}

func metric(kind int32, name string, value float64) {
	hostMetric(kind, unsafe.Pointer(unsafe.StringData(name)), uint32(len(name)), value)
}
