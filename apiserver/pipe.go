package apiserver

import (
	"bytes"
	"context"
	"errors"
	"sync"
)

// pipeLimit bounds what a handler may be ahead of its reader.
const pipeLimit = 256 << 10

var errPipeClosed = errors.New("apiserver: the reader of the response has gone")

// pipe carries a response body from a handler to its client with a bounded
// buffer, so that most responses are written without waiting for the reader.
type pipe struct {
	mu       sync.Mutex // protects all below
	buf      bytes.Buffer
	writeErr error // set by closeWrite; what read returns at the end
	readGone bool

	readable chan struct{} // one token when buf or writeErr changed
	writable chan struct{} // one token when there is room again
}

func newPipe() *pipe {
	return &pipe{readable: make(chan struct{}, 1), writable: make(chan struct{}, 1)}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (p *pipe) write(data []byte) (int, error) {
	n := 0
	for {
		p.mu.Lock()
		if p.readGone {
			p.mu.Unlock()
			return n, errPipeClosed
		}
		k := min(pipeLimit-p.buf.Len(), len(data)-n)
		p.buf.Write(data[n : n+k])
		n += k
		p.mu.Unlock()
		wake(p.readable)
		if n == len(data) {
			return n, nil
		}
		<-p.writable
	}
}

func (p *pipe) read(ctx context.Context, data []byte) (int, error) {
	for {
		p.mu.Lock()
		if p.buf.Len() > 0 {
			n, _ := p.buf.Read(data)
			p.mu.Unlock()
			wake(p.writable)
			return n, nil
		}
		err := p.writeErr
		if p.readGone {
			err = errPipeClosed
		}
		p.mu.Unlock()
		if err != nil {
			return 0, err
		}
		select {
		case <-p.readable:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (p *pipe) closeWrite(err error) {
	p.mu.Lock()
	p.writeErr = err
	p.mu.Unlock()
	wake(p.readable)
}

func (p *pipe) closeRead() {
	p.mu.Lock()
	p.readGone = true
	p.mu.Unlock()
	wake(p.writable)
	wake(p.readable)
}
