package shim

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// The wire: a unix stream socket, one call per connection. A connection costs
// some 30 µs where a container costs 15 ms, and buys what a shared one would
// need code for: calls are concurrent, a call is cancelled by closing its
// connection, and descriptors travel with the frame that they belong to.
//
// A frame is a 4 byte big-endian length and that much JSON (which libcontainer
// links anyway, and which the state on disk is written in). Descriptors ride on
// the first byte of a frame as SCM_RIGHTS.

// SocketName is the name of the shim's socket in its folder.
const SocketName = "shim.sock"

// maxFrame bounds what one side may make the other allocate; a specification
// with the largest environment that the kernel takes fits.
const maxFrame = 16 << 20

// maxFiles is the most descriptors a frame carries: three standard streams.
const maxFiles = 3

// Request is what a client sends, once per connection.
type Request struct {
	Method string          `json:"method"`
	Body   json.RawMessage `json:"body,omitempty"`
}

// Response is the one answer.
type Response struct {
	Error *WireError      `json:"error,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// WireError carries an error and which sentinel it is.
type WireError struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
}

var codes = map[string]error{
	"NotFound":   ErrNotFound,
	"Conflict":   ErrConflict,
	"NotRunning": ErrNotRunning,
	"Invalid":    ErrInvalid,
	"Newer":      ErrNewer,
}

// NewWireError keeps the sentinel that err wraps.
func NewWireError(err error) *WireError {
	for code, sentinel := range codes {
		if errors.Is(err, sentinel) {
			return &WireError{Code: code, Message: err.Error()}
		}
	}
	return &WireError{Message: err.Error()}
}

// Error is the server's own message.
func (e *WireError) Error() string { return e.Message }

// Unwrap gives the sentinel back, nil for an error without one.
func (e *WireError) Unwrap() error { return codes[e.Code] }

// WriteFrame sends v, with files attached; the caller keeps its copies of them.
func WriteFrame(conn *net.UnixConn, v any, files ...*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("frame of %d bytes is above the limit of %d: %w", len(body), maxFrame, ErrInvalid)
	}
	frame := append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))), body...)
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			if fds[i], err = rawFD(f); err != nil {
				return err
			}
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(frame, rights, nil)
	runtime.KeepAlive(files)
	if err != nil || n == len(frame) {
		return err
	}
	_, err = conn.Write(frame[n:])
	return err
}

// ReadFrame receives into v and returns the files that came along, close-on-exec.
func ReadFrame(conn *net.UnixConn, v any) (_ []*os.File, err error) {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := conn.ReadMsgUnix(head[:], oob)
	if err != nil {
		return nil, err
	}
	files, err := receivedFiles(oob[:oobn])
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxFrame {
		return nil, fmt.Errorf("frame of %d bytes is above the limit of %d", size, maxFrame)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return nil, fmt.Errorf("decode a frame: %w", err)
	}
	return files, nil
}

func receivedFiles(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse descriptors of a frame: %w", err)
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // other control data is none of ours
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// rawFD is f.Fd() without its side effect of making the description blocking,
// which both sides share.
func rawFD(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	err = raw.Control(func(p uintptr) { fd = int(p) })
	return fd, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
