package overlay

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"kontiki/internal/dump"
)

// TestAttachAndDetachAtOnce has pods come and go beside each other, each several
// times: nothing is left, and no address is given out twice.
func TestAttachAndDetachAtOnce(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	var wg sync.WaitGroup
	var mu sync.Mutex
	held := map[string]string{}
	for i := range 8 {
		uid, ns := fmt.Sprintf("uid-%d", i), newNS(t)
		wg.Go(func() {
			for range 5 {
				addrs, err := n.net.Attach(t.Context(), PodAttachment{UID: uid, NetNS: path(ns)})
				if err != nil {
					t.Errorf("attaching %s: %v", uid, err)
					return
				}
				mu.Lock()
				if other, taken := held[addrs[0].String()]; taken {
					t.Errorf("%s and %s hold %s", uid, other, addrs[0])
				}
				held[addrs[0].String()] = uid
				mu.Unlock()
				// Twice at once: the second finds nothing, or waits for the first.
				mu.Lock()
				delete(held, addrs[0].String())
				mu.Unlock()
				var both sync.WaitGroup
				for range 2 {
					both.Go(func() {
						if err := n.net.Detach(t.Context(), uid); err != nil {
							t.Errorf("detaching %s: %v", uid, err)
						}
					})
				}
				both.Wait()
			}
		})
	}
	wg.Wait()
	eventually(t, "no link of a pod is left", func() error {
		links, err := dump.All(handle(t, n.ns).LinkList)
		if err != nil {
			return err
		}
		for _, link := range links {
			if strings.HasPrefix(link.Attrs().Name, "ktk") {
				return errors.New(link.Attrs().Name + " is left")
			}
		}
		return nil
	})
	if recs := n.net.book.Records(); len(recs) > 0 {
		t.Errorf("records are left: %v", recs)
	}
}
