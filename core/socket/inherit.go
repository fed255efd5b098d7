package socket

import (
	"fmt"
	"net"
	"os"
)

// Inherit returns a listener on a listening TCP socket that was passed to this process, and closes the file. The
// connections that the listener accepts are *Conns, as with Listen. If another process also has the socket, the
// socket still listens after the listener is closed.
func Inherit(file *os.File) (net.Listener, error) {
	defer file.Close()
	made, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	tcp, ok := made.(*net.TCPListener)
	if !ok {
		made.Close()
		return nil, fmt.Errorf("the socket listens on %s, not on a TCP port", made.Addr().Network())
	}
	return wrapListener(tcp, true)
}
