// Package guest has the exports that all Go plugins have: the version of the ABI, and the memory that the host writes
// to. In builds that are not WebAssembly, the package is empty, so that plugins can be tested as ordinary Go code.
package guest
