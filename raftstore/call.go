package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Calls between nodes: many requests share one stream, each frame is msgpack.
type callMethod uint8

const (
	callPropose   callMethod = 1 // body: command; answer: result
	callReadIndex callMethod = 2 // answer: readPoint
	callTerm      callMethod = 3 // answer: uint64
	callMember    callMethod = 4 // body: memberChange
	callStatus    callMethod = 5 // answer: PeerStatus

	callDigest callMethod = 20 // body: digestQuestion; answer: digestAnswer
	callObject callMethod = 21 // body: objection
	callScrub  callMethod = 22
	callExport callMethod = 23 // answer: a flow, the state as a snapshot; on a stream of its own
)

type callOutcome uint8

const (
	callOK          callOutcome = 0
	callNotProposed callOutcome = 1 // certainly without effect; try elsewhere
	callUnknown     callOutcome = 2 // whether it had an effect is open
	callRefused     callOutcome = 3 // final
)

type callRequest struct {
	ID     uint64
	Method callMethod
	Body   []byte
}

type callResponse struct {
	ID     uint64
	Status callOutcome
	Error  string
	Body   []byte
}

const (
	callWriteTimeout = 5 * time.Second
	callsPerStream   = 4096 // handled at once; further ones wait in the stream
)

// caller keeps one stream to each peer, opened when needed.
type caller struct {
	greeter
	mu     sync.Mutex
	peers  map[string]*callStream
	closed bool
	wg     sync.WaitGroup
}

// callStream is the client's end of a stream.
type callStream struct {
	ready chan struct{} // closed when conn or err is set
	conn  net.Conn
	err   error

	write chan struct{} // holds a token while a frame is written
	reads atomic.Uint64 // frames read so far

	mu      sync.Mutex
	next    uint64
	pending map[uint64]chan callResponse // nil once the stream is broken
}

// call sends a request to a node and waits for its answer. An error that wraps
// errNotProposed says that it certainly had no effect there.
func (c *caller) call(ctx context.Context, to string, method callMethod, in, out any) error {
	body, err := marshal(in)
	if err != nil {
		return err
	}
	s, err := c.stream(ctx, to)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotProposed, err)
	}
	id, answer, ok := s.begin()
	if !ok {
		c.drop(to, s)
		return fmt.Errorf("%w: stream to node %s is broken", errNotProposed, to)
	}
	defer s.end(id)
	readsBefore := s.reads.Load()
	select {
	case s.write <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w: calls to node %s before this one do not leave: %w", errNotProposed, to, context.Cause(ctx))
	}
	err = s.send(ctx, callRequest{id, method, body})
	<-s.write
	if err != nil {
		c.drop(to, s)
		return fmt.Errorf("call to node %s: %w", to, err)
	}
	select {
	case r, ok := <-answer:
		if !ok {
			return fmt.Errorf("stream to node %s broke", to)
		}
		return r.decode(out)
	case <-ctx.Done():
		if s.reads.Load() == readsBefore {
			// Silent all the while: the path may be dead, and TCP would take long to
			// find a way again. The next call opens a new stream.
			c.drop(to, s)
		}
		return context.Cause(ctx)
	}
}

// send writes a frame. What the path to the node does not take until ctx ends breaks the
// stream: the rest of the frame would have to leave before anything else.
func (s *callStream) send(ctx context.Context, r callRequest) error {
	s.conn.SetWriteDeadline(time.Now().Add(callWriteTimeout))
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		s.conn.SetWriteDeadline(time.Unix(1, 0))
	})
	err := writeFrame(s.conn, r)
	if !stop() {
		<-cut // it is not to cut the next frame
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (r callResponse) decode(out any) error {
	switch r.Status {
	case callOK:
		return unmarshal(r.Body, out)
	case callNotProposed:
		return fmt.Errorf("%w: %s", errNotProposed, r.Error)
	case callRefused:
		return final(errors.New(r.Error))
	}
	return errors.New(r.Error)
}

func (c *caller) stream(ctx context.Context, to string) (*callStream, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	s := c.peers[to]
	if s == nil {
		s = &callStream{ready: make(chan struct{}), write: make(chan struct{}, 1), pending: make(map[uint64]chan callResponse)}
		c.peers[to] = s
		c.wg.Go(func() { c.run(to, s) })
	}
	c.mu.Unlock()
	select {
	case <-s.ready:
		return s, s.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// run opens a stream and reads answers until it breaks.
func (c *caller) run(to string, s *callStream) {
	defer c.drop(to, s)
	s.conn, s.err = c.dial(context.Background(), to)
	close(s.ready)
	if s.err != nil {
		return
	}
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return
	}
	for {
		var r callResponse
		if err := readFrame(s.conn, &r); err != nil {
			return
		}
		s.reads.Add(1)
		s.mu.Lock()
		answer := s.pending[r.ID]
		delete(s.pending, r.ID)
		s.mu.Unlock()
		if answer != nil {
			answer <- r
		}
	}
}

// drop closes a stream and forgets it; its calls fail.
func (c *caller) drop(to string, s *callStream) {
	c.mu.Lock()
	if c.peers[to] == s {
		delete(c.peers, to)
	}
	c.mu.Unlock()
	s.mu.Lock()
	for _, answer := range s.pending {
		close(answer)
	}
	s.pending = nil
	s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
	}
}

func (s *callStream) begin() (uint64, chan callResponse, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == nil {
		return 0, nil, false
	}
	s.next++
	answer := make(chan callResponse, 1)
	s.pending[s.next] = answer
	return s.next, answer, true
}

func (s *callStream) end(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, id)
}

// close breaks all streams and waits for their readers.
func (c *caller) close() {
	c.mu.Lock()
	c.closed = true
	var conns []net.Conn
	for _, s := range c.peers {
		select {
		case <-s.ready:
			if s.conn != nil {
				conns = append(conns, s.conn)
			}
		default: // its run looks at closed once it is open
		}
	}
	c.mu.Unlock()
	for _, conn := range conns {
		conn.Close()
	}
	c.wg.Wait()
}

// serveCalls answers the requests of one stream until it breaks or ctx ends.
func serveCalls(ctx context.Context, conn io.ReadWriteCloser, handle func(context.Context, callMethod, []byte) (any, error)) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	slots := make(chan struct{}, callsPerStream)
	var write sync.Mutex
	for {
		var req callRequest
		if err := readFrame(conn, &req); err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			defer func() { <-slots }()
			out, err := handle(ctx, req.Method, req.Body)
			if f, ok := out.(flow); ok && err == nil {
				err = f(&flowWriter{conn: conn, id: req.ID, write: &write})
				out = []byte(nil) // which ends it
			}
			resp := answer(req.ID, out, err)
			write.Lock()
			defer write.Unlock()
			if c, ok := conn.(net.Conn); ok {
				c.SetWriteDeadline(time.Now().Add(callWriteTimeout))
			}
			if err := writeFrame(conn, resp); err != nil {
				cancel()
			}
		})
	}
}

func answer(id uint64, out any, err error) callResponse {
	r := callResponse{ID: id}
	if err == nil {
		if r.Body, err = marshal(out); err == nil {
			return r
		}
	}
	var fin finalError
	switch {
	case errors.Is(err, errNotProposed):
		r.Status = callNotProposed
	case errors.As(err, &fin):
		r.Status = callRefused
	default:
		r.Status = callUnknown
	}
	r.Error = err.Error()
	return r
}
