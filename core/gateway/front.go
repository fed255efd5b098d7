package gateway

// front speaks one protocol with one client. The Server owns the connection: it drains it, closes
// it, and ends it after serve or refuse has returned. HTTP/1.1 (httpFront) is the only front so
// far. A front for SOCKS5 would read its requests with the connection's reader, run them with
// executor.Run and a proxyhttp.Connect, and pass the tunnel to Server.serveTunnel. TLS to clients
// needs no front but a listener (tls.NewListener), which works with every front.
type front interface {
	// serve serves the client until the client or the gateway ends the connection.
	serve()
	// refuse tells the client that the gateway accepts no more connections.
	refuse()
}

// newFront returns the front of a new connection.
type newFront func(*Server, *connection) front
