package pod

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"
)

// Output is what a container writes from now on, for those that are attached.
// Its log is written beside it and never waits for them longer than tapPatience.
type Output struct {
	mu    sync.Mutex // protects taps and ended
	taps  []*Tap
	ended bool
}

// tapPatience is how long one who is attached may keep a container waiting
// before it is let go: a pipe loses nothing, and a sleeping client stops nobody.
const tapPatience = 10 * time.Second

// Chunk is some bytes of one stream.
type Chunk struct {
	Stream string // stdout or stderr
	Data   []byte
}

// Tap is one who listens.
type Tap struct {
	out    *Output
	chunks chan Chunk
	gone   chan struct{}
	once   sync.Once
}

// Tap listens from here on; nil when the output has ended.
func (o *Output) Tap() *Tap {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return nil
	}
	t := &Tap{out: o, chunks: make(chan Chunk, 16), gone: make(chan struct{})}
	o.taps = append(o.taps, t)
	return t
}

// Next returns what was written next, io.EOF after the end, io.ErrShortBuffer
// when the listener was too slow.
func (t *Tap) Next(ctx context.Context) (Chunk, error) {
	select {
	case c, ok := <-t.chunks:
		if !ok {
			return Chunk{}, io.EOF
		}
		return c, nil
	case <-t.gone:
		return Chunk{}, io.ErrShortBuffer
	case <-ctx.Done():
		return Chunk{}, ctx.Err()
	}
}

// Close stops listening.
func (t *Tap) Close() {
	t.once.Do(func() { close(t.gone) })
	t.out.mu.Lock()
	defer t.out.mu.Unlock()
	t.out.taps = slices.DeleteFunc(t.out.taps, func(o *Tap) bool { return o == t })
}

// end tells all listeners that nothing will follow. Both streams have ended.
func (o *Output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	for _, t := range o.taps {
		close(t.chunks)
	}
	o.taps = nil
}

// tell gives listeners a copy of b.
func (o *Output) tell(stream string, b []byte) {
	o.mu.Lock()
	taps := slices.Clone(o.taps)
	o.mu.Unlock()
	if len(taps) == 0 {
		return
	}
	c := Chunk{Stream: stream, Data: slices.Clone(b)}
	for _, t := range taps {
		select {
		case t.chunks <- c:
			continue
		case <-t.gone:
			continue
		default:
		}
		slow := time.NewTimer(tapPatience)
		select {
		case t.chunks <- c:
		case <-t.gone:
		case <-slow.C:
			t.Close()
		}
		slow.Stop()
	}
}

// listened is a stream that is also told to listeners.
type listened struct {
	io.Reader
	out    *Output
	stream string
}

func (l listened) Read(b []byte) (int, error) {
	n, err := l.Reader.Read(b)
	if n > 0 {
		l.out.tell(l.stream, b[:n])
	}
	return n, err
}
