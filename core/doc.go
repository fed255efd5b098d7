// Package core defines the values that the other packages exchange while a request passes through the gateway, and the
// interfaces that a plugin implements. It imports only the standard library.
//
//	gateway -> executor -> [ selector -> breaker -> transport -> verdict.Judge -> record ]* -> response
//
// Other packages of the project import core; core imports no other package of the project (imports_test.go).
package core
