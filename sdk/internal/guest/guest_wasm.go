package guest

import "unsafe"

//go:wasmexport whirlpool_abi_v1
func version() {}

// region is what reserve gave last. Go's collector moves nothing, and frees
// nothing that a variable holds. Elements of 8 bytes, so that it is aligned.
var region []uint64

//go:wasmexport reserve
func reserve(bytes uint32) unsafe.Pointer {
	if words := (uint64(bytes) + 7) / 8; uint64(len(region)) < words {
		region = nil // so that the old one can be freed for the new
		region = make([]uint64, words)
	}
	return unsafe.Pointer(unsafe.SliceData(region))
}

// Text is a copy of what the host has written, to take strings from: one
// allocation for all of them.
type Text struct{ all string }

// Copy copies the text of the call that runs.
func Copy() Text {
	return Text{string(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(region))), 8*len(region)))}
}

// At is the string of size bytes at an address.
func (t Text) At(address, size uint32) string {
	if size == 0 {
		return ""
	}
	at := address - uint32(uintptr(unsafe.Pointer(unsafe.SliceData(region))))
	return t.all[at : at+size]
}

// Records are the n records of type T at an address. They are the host's: gone
// when the call ends.
func Records[T any](address uint32, n uint32) []T {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(pointer(address)), n)
}

// pointer is the pointer to an address within region.
func pointer(address uint32) unsafe.Pointer {
	base := unsafe.Pointer(unsafe.SliceData(region))
	return unsafe.Add(base, uintptr(address)-uintptr(base))
}
