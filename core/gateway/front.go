package gateway

// front speaks one protocol with one client. The Server owns the connection: it ends it
// when serve or refuse has returned, drains it and closes it. HTTP/1.1 is the only
// front so far (httpFront). Another one, for SOCKS5, reads its requests with the
// connection's reader, runs them with executor.Run and a proxyhttp.Connect, and gives
// the tunnel to Server.serveTunnel. TLS to clients is no front but a listener
// (tls.NewListener): every front then works on its connections.
type front interface {
	// serve serves the client until one of the two ends the connection.
	serve()
	// refuse sends the client the error that the gateway accepts no more connections.
	refuse()
}

// newFront returns the front for a connection of one listener.
type newFront func(*Server, *connection) front
