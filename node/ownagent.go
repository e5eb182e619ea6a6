package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// errNoAgent: this node's agent does not serve any more.
var errNoAgent = errors.New("the agent of this node is stopping")

// ownAgent leads from this node's API to this node's agent, within the process: a connection over the cluster
// port would be two handshakes more, to prove to a node that it is itself. It is the agent's net.Listener.
type ownAgent struct {
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func newOwnAgent() *ownAgent {
	return &ownAgent{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial connects to the agent once that accepts.
func (l *ownAgent) Dial(ctx context.Context) (net.Conn, error) {
	here, there, err := connected()
	if err != nil {
		return nil, fmt.Errorf("connect to this node's agent: %w", err)
	}
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		err = errNoAgent
	case <-ctx.Done():
		err = ctx.Err()
	}
	here.Close()
	there.Close()
	return nil, err
}

// Accept implements net.Listener.
func (l *ownAgent) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *ownAgent) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *ownAgent) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// connected makes two ends of a connection. The kernel's have room for what nobody has read yet, which net.Pipe's do
// not: streams in both directions would wait for each other.
func connected() (here, there net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "agent")
		conn, cerr := net.FileConn(file) // a copy
		file.Close()
		ends[i], err = conn, errors.Join(err, cerr)
	}
	if err == nil {
		return ends[0], ends[1], nil
	}
	for _, conn := range ends {
		if conn != nil {
			conn.Close()
		}
	}
	return nil, nil, err
}

// serveAll serves what comes from several listeners, until the server is shut down or one of them fails.
func serveAll(server *http.Server, listeners ...net.Listener) error {
	var all sync.WaitGroup
	failures := make([]error, len(listeners))
	for i, l := range listeners {
		all.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failures[i] = err
				server.Close() // ends the others
			}
		})
	}
	all.Wait()
	return errors.Join(failures...)
}
