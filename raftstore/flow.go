package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// flow is an answer of any length: frames with pieces of it, and an empty one. It has a
// stream of its own, so that it holds up no other call.
type flow func(io.Writer) error

const flowPiece = 256 << 10

// flowWriter is the answering end.
type flowWriter struct {
	conn  io.Writer
	id    uint64
	write *sync.Mutex
}

func (w *flowWriter) Write(b []byte) (int, error) {
	w.write.Lock()
	defer w.write.Unlock()
	written := 0
	for len(b) > 0 {
		n := min(len(b), flowPiece)
		if c, ok := w.conn.(net.Conn); ok {
			c.SetWriteDeadline(time.Now().Add(callWriteTimeout))
		}
		piece, err := marshal(b[:n])
		if err == nil {
			err = writeFrame(w.conn, callResponse{ID: w.id, Body: piece})
		}
		if err != nil {
			return written, err
		}
		written += n
		b = b[n:]
	}
	return written, nil
}

// flowReader is the asking end.
type flowReader struct {
	conn net.Conn
	stop func() bool // the watch over the caller's context
	left []byte
	err  error
}

// flow asks a node for an answer of any length. What is read up to io.EOF is the whole.
func (c *caller) flow(ctx context.Context, to string, method callMethod) (io.ReadCloser, error) {
	conn, err := c.dial(ctx, to)
	if err != nil {
		return nil, err
	}
	r := &flowReader{conn: conn, stop: context.AfterFunc(ctx, func() { conn.Close() })}
	if err := writeFrame(conn, callRequest{ID: 1, Method: method}); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *flowReader) Read(b []byte) (int, error) {
	for len(r.left) == 0 && r.err == nil {
		var answer callResponse
		r.conn.SetReadDeadline(time.Now().Add(callWriteTimeout))
		if r.err = readFrame(r.conn, &answer); r.err != nil {
			r.err = fmt.Errorf("the stream broke: %w", r.err)
			break
		}
		if r.err = answer.decode(&r.left); r.err == nil && len(r.left) == 0 {
			r.err = io.EOF
		}
	}
	if len(r.left) == 0 {
		return 0, r.err
	}
	n := copy(b, r.left)
	r.left = r.left[n:]
	return n, nil
}

func (r *flowReader) Close() error {
	r.stop()
	return r.conn.Close()
}
