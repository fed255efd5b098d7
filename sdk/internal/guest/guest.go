// Package guest is what every Go plugin exports, whatever it decides: the
// version of the ABI and the memory the host writes to. Outside WebAssembly it
// is empty, so that plugins can be tested as ordinary Go.
package guest
