package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	gort "runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"kontiki/runtime/pod"
)

// forwarder connects to ports inside a pod.
type forwarder struct{ worker *pod.Worker }

const forwardDial = 30 * time.Second

// PortForward implements portforward.PortForwarder: bytes go to and from a port
// on the pod's own loopback, so programs that listen nowhere else are reached, too.
func (x forwarder) PortForward(ctx context.Context, name, _ string, port int32, stream io.ReadWriteCloser) error {
	wait, cancel := context.WithTimeout(ctx, targetPatience)
	defer cancel()
	netns, err := x.worker.NetNS(wait)
	if err != nil {
		return err
	}
	conn, err := dialIn(ctx, netns, port)
	if err != nil {
		return fmt.Errorf("connect to port %d inside pod %s: %w", port, name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go func() { // ends with the stream, which its server closes
		_, _ = io.Copy(conn, stream)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, conn)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// dialIn connects to localhost:port in a network namespace; empty is the host's.
func dialIn(ctx context.Context, netns string, port int32) (net.Conn, error) {
	dial := func() (conn net.Conn, err error) {
		d := net.Dialer{Timeout: forwardDial}
		for _, host := range []string{"127.0.0.1", "::1"} {
			var cerr error
			if conn, cerr = d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port)))); cerr == nil {
				return conn, nil
			}
			if err == nil {
				err = cerr
			}
		}
		return nil, err
	}
	if netns == "" {
		return dial()
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// A socket belongs to the namespace of the thread that makes it. The
		// thread is thrown away when it cannot be brought back.
		gort.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			gort.UnlockOSThread()
			done <- result{err: err}
			return
		}
		defer home.Close()
		there, err := os.Open(netns)
		if err != nil {
			gort.UnlockOSThread()
			done <- result{err: err}
			return
		}
		defer there.Close()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			gort.UnlockOSThread()
			done <- result{err: fmt.Errorf("enter the pod's network: %w", err)}
			return
		}
		conn, err := dial()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			gort.UnlockOSThread()
		}
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
