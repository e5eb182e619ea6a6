package shim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func socketPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return conns[0], conns[1]
}

func TestFrameCarriesFiles(t *testing.T) {
	a, b := socketPair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := WriteFrame(a, Request{Method: "Exec"}, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var req Request
	files, err := ReadFrame(b, &req)
	if err != nil || len(files) != 1 || req.Method != "Exec" {
		t.Fatal(req, files, err)
	}
	io.WriteString(files[0], "over there")
	files[0].Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "over there" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestLargeFrame(t *testing.T) {
	a, b := socketPair(t)
	done := make(chan error, 1)
	big := strings.Repeat("x", 4<<20)
	go func() { done <- WriteFrame(a, big) }()
	var got string
	if _, err := ReadFrame(b, &got); err != nil || got != big {
		t.Fatal(len(got), err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := WriteFrame(a, strings.Repeat("x", maxFrame)); !errors.Is(err, ErrInvalid) {
		t.Fatalf("above the limit: %v", err)
	}
}

func TestErrorsSurviveTheWire(t *testing.T) {
	for _, sentinel := range []error{ErrNotFound, ErrConflict, ErrNotRunning, ErrInvalid} {
		err := fmt.Errorf("call: %w", NewWireError(fmt.Errorf("container x: %w", sentinel)))
		if !errors.Is(err, sentinel) || !strings.Contains(err.Error(), "container x") {
			t.Errorf("%v: %v", sentinel, err)
		}
	}
	if err := error(NewWireError(io.EOF)); errors.Is(err, ErrNotFound) || err.Error() != "EOF" {
		t.Error(err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, '{'})
	f.Add(append(binary.BigEndian.AppendUint32(nil, 15), `{"method":"Lis"}`...))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, y := socketPair(t)
		go func() {
			x.Write(b)
			x.CloseWrite()
		}()
		var req Request
		files, err := ReadFrame(y, &req)
		if err != nil && len(files) != 0 {
			t.Fatal("files along with an error leak")
		}
	})
}
