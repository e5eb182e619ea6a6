package raftstore_test

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

func TestCloseEndsEverything(t *testing.T) {
	before := goleak.IgnoreCurrent()
	c := raftstoretest.NewCluster(t, 3)
	s := c.Stores[(c.Leader()+1)%3]
	w, err := s.Watch("", mustApply(t, s, put("k", "v")).Revision)
	if err != nil {
		t.Fatal(err)
	}
	watching := make(chan error)
	go func() {
		_, _, err := w.Next(bounded(t))
		watching <- err
	}()
	leadership, stop := s.WatchLeadership()
	<-leadership
	defer stop()
	for i := range c.Stores {
		c.Stop(i)
	}
	if err := <-watching; !errors.Is(err, raftstore.ErrClosed) {
		t.Errorf("a watch of a closed store: %v", err)
	}
	for name, call := range map[string]func() error{
		"Apply":        func() error { _, err := s.Apply(bounded(t), put("k", "v")); return err },
		"Linearize":    func() error { _, err := s.Linearize(bounded(t)); return err },
		"WaitRevision": func() error { _, err := s.WaitRevision(bounded(t), 99); return err },
		"Watch":        func() error { _, err := s.Watch("", 0); return err },
		"Barrier":      func() error { _, err := s.Barrier(bounded(t)); return err },
		"Remove":       func() error { return s.Remove(bounded(t), "x") },
		"Close":        s.Close,
	} {
		if err := call(); name != "Close" && !errors.Is(err, raftstore.ErrClosed) {
			t.Errorf("%s of a closed store: %v", name, err)
		}
	}
	goleak.VerifyNone(t, before)
}
