package guest

import "unsafe"

//go:wasmexport whirlpool_abi_v1
func version() {}

// region is the memory that the export "reserve" returned last. Go's garbage collector neither moves this memory nor
// frees it while the variable refers to it. The memory is aligned, because the elements of the slice have 8 bytes.
var region []uint64

//go:wasmexport reserve
func reserve(bytes uint32) unsafe.Pointer {
	if words := (uint64(bytes) + 7) / 8; uint64(len(region)) < words {
		region = nil // so that the collector can free the old region first
		region = make([]uint64, words)
	}
	return unsafe.Pointer(unsafe.SliceData(region))
}

// Text is a copy of the bytes that the host has written for a call. The method At returns parts of this copy, so that
// many strings need only one allocation.
type Text struct{ all string }

// Copy copies the text of the current call.
func Copy() Text {
	return Text{string(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(region))), 8*len(region)))}
}

// At returns the string of size bytes at the given address.
func (t Text) At(address, size uint32) string {
	if size == 0 {
		return ""
	}
	at := address - uint32(uintptr(unsafe.Pointer(unsafe.SliceData(region))))
	return t.all[at : at+size]
}

// Records returns the n records of type T at an address. The host owns them: they are invalid after the call.
func Records[T any](address uint32, n uint32) []T {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(pointer(address)), n)
}

// pointer returns the pointer to an address within region.
func pointer(address uint32) unsafe.Pointer {
	base := unsafe.Pointer(unsafe.SliceData(region))
	return unsafe.Add(base, uintptr(address)-uintptr(base))
}
