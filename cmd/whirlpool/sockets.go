package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// sockets are the listening sockets of the process. A socket is nil until it is opened.
type sockets struct {
	gateway, api net.Listener
}

// firstFD is the number of the first file descriptor that a parent process passes (sd_listen_fds(3)).
const firstFD = 3

// socketsPassed reports whether the parent process has passed sockets to this process.
func socketsPassed(environ func(string) string) bool {
	n, err := strconv.Atoi(environ("LISTEN_FDS"))
	return err == nil && n > 0 && environ("LISTEN_PID") == strconv.Itoa(os.Getpid())
}

// passedSockets returns the sockets that the parent process has passed as systemd does (sd_listen_fds(3)): LISTEN_PID
// is the id of this process, LISTEN_FDS is the number of sockets, and LISTEN_FDNAMES may give each socket the name
// "gateway" or "api". A socket without a name is used for the gateway or, if the gateway has a socket, for the API. The
// function environ returns an environment variable.
func passedSockets(environ func(string) string) (s sockets, err error) {
	if !socketsPassed(environ) {
		return s, nil
	}
	n, _ := strconv.Atoi(environ("LISTEN_FDS")) // its error is nil: socketsPassed has parsed the number
	names := strings.Split(environ("LISTEN_FDNAMES"), ":")
	files := map[string]*os.File{}
	var unnamed []*os.File
	for i := range n {
		fd := firstFD + i
		closeOnExec(fd)
		file := os.NewFile(uintptr(fd), "passed socket")
		if i < len(names) && (names[i] == "gateway" || names[i] == "api") && files[names[i]] == nil {
			files[names[i]] = file
		} else {
			unnamed = append(unnamed, file)
		}
	}
	for _, name := range []string{"gateway", "api"} {
		if files[name] == nil && len(unnamed) > 0 {
			files[name], unnamed = unnamed[0], unnamed[1:]
		}
	}
	if len(unnamed) > 0 {
		return s, fmt.Errorf("%d sockets were passed (LISTEN_FDS); the gateway takes one, and the API one", n)
	}
	if s.gateway, err = inheritSocket(files["gateway"], "gateway"); err == nil {
		s.api, err = inheritSocket(files["api"], "api")
	}
	return s, err
}

func inheritSocket(file *os.File, name string) (net.Listener, error) {
	if file == nil {
		return nil, nil
	}
	l, err := socket.Inherit(file)
	if err != nil {
		return nil, fmt.Errorf("the passed socket for %s: %w", name, err)
	}
	return l, nil
}

// setAddresses sets the listening addresses in settings to the addresses of the passed sockets.
func (s *sockets) setAddresses(settings map[string]any) {
	if s.gateway != nil {
		settings["gateway.listen"] = s.gateway.Addr().String()
	}
	if s.api != nil {
		settings["api.listen"] = s.api.Addr().String()
	}
}

// listen opens the sockets that the parent process has not passed.
func (s *sockets) listen(ctx context.Context, gateway, api string) (err error) {
	if s.gateway == nil {
		if s.gateway, err = socket.Listen(ctx, gateway); err != nil {
			return fmt.Errorf("gateway.listen: %w; set another address with --listen HOST:PORT", err)
		}
	}
	if s.api == nil {
		if s.api, err = net.Listen("tcp", api); err != nil {
			s.gateway.Close()
			return fmt.Errorf("api.listen: %w; set another address with --api HOST:PORT", err)
		}
	}
	return nil
}
