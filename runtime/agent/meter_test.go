package agent

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kontiki/runtime/shim"
)

// ticking is a shim whose one container uses half a core from its start on.
type ticking struct {
	began time.Time
	looks int
}

func (s *ticking) List(context.Context) ([]shim.Container, error) {
	return []shim.Container{{ID: "c", SandboxID: "p", Created: s.began}}, nil
}

func (s *ticking) Usage(context.Context) (shim.Usage, error) {
	s.looks++
	now := time.Now()
	used := shim.Stats{At: now, CPUNanos: uint64(now.Sub(s.began)) / 2}
	return shim.Usage{Machine: used, Pods: used, Sandboxes: map[string]shim.Stats{"p": used}, Containers: map[string]shim.Stats{"c": used}}, nil
}

func TestRatesOfThoseWhoAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &ticking{began: time.Now()}
		m := meter{shim: s}
		ask := func(took time.Duration) {
			t.Helper()
			began := time.Now()
			got, err := m.measure(t.Context(), true)
			if err != nil {
				t.Fatal(err)
			}
			if rate := got.rates[containerKey("c")]; rate != 500_000_000 {
				t.Errorf("rate %d nano-cores, want half a core", rate)
			}
			if d := time.Since(began); d != took {
				t.Errorf("it took %v, want %v", d, took)
			}
		}
		time.Sleep(3 * time.Second)
		ask(rateLeast) // the first waits for a second look
		ask(0)         // who asks again is answered at once
		for range 20 {
			time.Sleep(15 * time.Second)
			ask(0)
		}
		looks := s.looks
		time.Sleep(time.Hour) // nobody asks, nobody looks
		if s.looks != looks {
			t.Errorf("%d looks while nobody asked", s.looks-looks)
		}
		if len(m.looks) > int(rateKept/rateLeast)+1 {
			t.Errorf("%d looks are kept", len(m.looks))
		}
		ask(rateLeast)
		if m, err := m.measure(t.Context(), false); err != nil || m.rates != nil {
			t.Errorf("rates nobody asked for: %v %v", m.rates, err)
		}
	})
}

// A container that is younger than the look before is measured over its own life.
func TestRateOfTheNew(t *testing.T) {
	at := time.Unix(1000, 0)
	base := look{at: at, nanos: map[string]uint64{"old": 5e9}}
	cur := look{at: at.Add(10 * time.Second), nanos: map[string]uint64{"old": 10e9, "new": 1e9, "unknown": 7}}
	got := ratesBetween(base, cur, map[string]time.Time{"new": at.Add(8 * time.Second)})
	if len(got) != 2 || got["old"] != 5e8 || got["new"] != 5e8 {
		t.Errorf("%v", got)
	}
}

func TestNetDevices(t *testing.T) {
	list, err := parseNetDevices(strings.NewReader(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 4242       7    3    0    0     0          0         0  99 1    2    0    0     0       0          0
`))
	if err != nil || len(list) != 1 || list[0].Name != "eth0" || *list[0].RxBytes != 4242 || *list[0].RxErrors != 3 || *list[0].TxBytes != 99 || *list[0].TxErrors != 2 {
		t.Errorf("%+v %v", list, err)
	}
}
