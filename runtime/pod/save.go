package pod

import (
	"encoding/json"
	"sync"
)

// saver makes records durable beside the worker's other work, one write at a time, in order. When
// several are asked for during a write, the newest stands for all: it knows what they knew.
type saver struct {
	write func([]byte) error
	fail  func(error)
	jobs  *sync.WaitGroup

	mu   sync.Mutex // protects what follows
	busy *saving    // being written
	next *saving    // to be written after it
}

// saving is one record on its way to the disk.
type saving struct {
	bytes []byte
	done  chan struct{} // closed when it is there, or was found to be impossible
}

// save begins to write b. What it returns waits until b, or a newer record, was written.
func (s *saver) save(b []byte) (wait func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		s.next.bytes = b
		return s.next.wait
	}
	v := &saving{bytes: b, done: make(chan struct{})}
	if s.busy != nil {
		s.next = v
		return v.wait
	}
	s.busy = v
	s.jobs.Go(s.run)
	return v.wait
}

func (v *saving) wait() { <-v.done }

// run writes until nothing is left to be written.
func (s *saver) run() {
	for {
		s.mu.Lock()
		v := s.busy
		s.mu.Unlock()
		if err := s.write(v.bytes); err != nil {
			s.fail(err)
		}
		s.mu.Lock()
		close(v.done)
		s.busy, s.next = s.next, nil
		more := s.busy != nil
		s.mu.Unlock()
		if !more {
			return
		}
	}
}

// settle waits until nothing is being written.
func (s *saver) settle() {
	s.mu.Lock()
	last := s.next
	if last == nil {
		last = s.busy
	}
	s.mu.Unlock()
	if last != nil {
		last.wait()
	}
}

// commit makes the record durable before anything is done that relies on it.
func (w *Worker) commit() { w.commitBeside()() }

// commitBeside begins to make the record as it is now durable. Who relies on that calls what it
// returns; who does not can do what a crash may undo meanwhile.
func (w *Worker) commitBeside() (wait func()) {
	b, err := json.Marshal(w.rec)
	if err != nil { // a Record holds nothing that cannot be written
		panic("pod: the record cannot be encoded: " + err.Error())
	}
	return w.saver.save(b)
}
