package nemesis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"kontiki/jepsen/history"
	"kontiki/jepsen/lab"
)

// fault is a Draw that is being played.
type fault struct {
	*Nemesis
	Draw
	process int      // in the history
	hosts   []string // of the lab, whom it strikes first of all first
	struck  []string // by a signal, a loss of power
	whom    string   // in words
	cut     string   // of a network that comes and goes
	isCut   bool
	since   time.Time // it comes or goes
	touches []history.Item
}

// touch notes that a fault concerns hosts, see history.Touches.
func (f *fault) touch(what string, hosts ...string) {
	for _, h := range hosts {
		f.touches = append(f.touches, history.Item{Key: h, Value: what})
	}
}

// touchBetween notes that what goes between hosts on two sides is concerned.
func (f *fault) touchBetween(some, others []string) {
	for _, a := range some {
		for _, b := range others {
			f.touches = append(f.touches, history.Item{Key: a, Value: b})
		}
	}
}

// kind is what a fault does. Faults of the network are healed all at once, by the lab.
type kind struct {
	name   string
	about  string
	strike func(ctx context.Context, f *fault) error
	during func(ctx context.Context, f *fault) error // again and again while it lasts
	heal   func(ctx context.Context, f *fault) error // nil where the network is all
}

func kinds() []kind {
	return []kind{
		{"kill", "node processes are killed; their containers run on", strikeKill, nil, startAgain},
		{"pause", "node processes are stopped in their tracks, and go on later", strikePause, nil, goOn},
		{"pause-leaders", "whoever leads is stopped until another leads, and goes on then, again and again", strikeLeaders, nextLeader, goOn},
		{"partition-halves", "two halves of the cluster do not hear each other", strikeHalves, nil, nil},
		{"partition-leader", "the leader is alone", strikeAlone, nil, nil},
		{"partition-ring", "each node hears its two neighbours alone", strikeRing, nil, nil},
		{"partition-one-way", "one node is not heard by the others, or hears none of them", strikeOneWay, nil, nil},
		{"flapping", "one node is cut off and let in again, several times a second", strikeFlapping, flap, nil},
		{"tcp-only", "no TCP goes between nodes; UDP does", strikeProto("tcp"), nil, nil},
		{"udp-only", "no UDP goes between nodes; TCP does", strikeProto("udp"), nil, nil},
		{"loss", "nodes lose a share of all packets", strikeLoss, nil, nil},
		{"wipe", "a machine loses its disk, and takes its own place as a blank one", strikeWipe, nil, replace},
		{"readdress", "machines get other addresses, for good", strikeReaddress, nil, nil},
	}
}

// Names are the names of all faults.
func Names() (names []string) {
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

// About tells what a fault is.
func About(name string) string {
	for _, k := range kinds() {
		if k.name == name {
			return k.about
		}
	}
	return "all of them, sometimes two at a time"
}

func (f *fault) note(what, node string) {
	f.recorder.Record(history.Event{Type: history.Info, Process: f.process, F: what, Node: node})
}

// each does something to every host that was struck.
func (f *fault) each(act func(h *lab.Host) error) error {
	for _, name := range f.struck {
		h, err := f.lab.Host(name)
		if err != nil {
			return err
		}
		if err := act(h); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func strikeKill(ctx context.Context, f *fault) error {
	f.struck = f.some(f.hosts)
	f.touch(history.Node, f.struck...)
	f.whom = strings.Join(f.struck, ",")
	return f.each(func(h *lab.Host) error {
		f.note(history.Ending, h.Name)
		defer f.note(history.Ended, h.Name)
		return h.Signal(ctx, syscall.SIGKILL)
	})
}

func startAgain(_ context.Context, f *fault) error {
	return f.each(func(h *lab.Host) error { return h.Start() })
}

func strikePause(ctx context.Context, f *fault) error {
	f.struck = f.some(f.hosts)
	f.touch(history.Node, f.struck...)
	f.whom = strings.Join(f.struck, ",")
	return f.each(func(h *lab.Host) error { return unlessKilled(h.Signal(ctx, syscall.SIGSTOP)) })
}

// unlessKilled leaves out that a node does not run: another fault of the same round may
// have seen to that.
func unlessKilled(err error) error {
	if errors.Is(err, lab.ErrNotRunning) {
		return nil
	}
	return err
}

func goOn(ctx context.Context, f *fault) error {
	return f.each(func(h *lab.Host) error { return unlessKilled(h.Signal(ctx, syscall.SIGCONT)) })
}

func strikeLeaders(ctx context.Context, f *fault) error {
	f.struck, f.since = f.hosts[:1], time.Now()
	f.whom = f.hosts[0]
	f.touch(history.Node, f.hosts[0])
	return f.each(func(h *lab.Host) error { return unlessKilled(h.Signal(ctx, syscall.SIGSTOP)) })
}

// nextLeader lets a paused leader go on once another had time to be elected and to be
// written through, and pauses that one a little later.
func nextLeader(ctx context.Context, f *fault) error {
	since := time.Since(f.since)
	switch {
	case f.struck != nil && since > 1500*time.Millisecond+time.Duration(f.Share*float64(time.Second)):
		err := goOn(ctx, f)
		f.struck, f.since = nil, time.Now()
		return err
	case f.struck == nil && since > 500*time.Millisecond:
		leader := f.leader(ctx)
		if leader == "" {
			return nil
		}
		f.struck, f.since = []string{leader}, time.Now()
		f.whom += "," + leader
		f.touch(history.Node, leader)
		f.tell()
		return f.each(func(h *lab.Host) error { return unlessKilled(h.Signal(ctx, syscall.SIGSTOP)) })
	}
	return nil
}

// partition cuts hosts off. What goes between pods is not TCP on the way.
func (f *fault) partition(cut, proto string) error {
	f.whom = strings.Trim(f.whom+" "+cut, " ")
	if sides := strings.FieldsFunc(cut, func(r rune) bool { return r == '|' || r == '>' }); proto != "tcp" {
		for i := range sides {
			for _, other := range sides[i+1:] {
				f.touchBetween(strings.Split(sides[i], ","), strings.Split(other, ","))
			}
		}
	}
	return f.lab.Partition(cut, proto)
}

func (f *fault) alone() string {
	return f.hosts[0] + "|" + strings.Join(f.hosts[1:], ",")
}

func strikeHalves(_ context.Context, f *fault) error {
	half := len(f.hosts) / 2
	return f.partition(strings.Join(f.hosts[:half], ",")+"|"+strings.Join(f.hosts[half:], ","), "")
}

func strikeAlone(_ context.Context, f *fault) error { return f.partition(f.alone(), "") }

// strikeRing cuts all pairs that are no neighbours; of three hosts, which all are, one.
func strikeRing(_ context.Context, f *fault) error {
	n := len(f.hosts)
	if n <= 3 {
		return f.partition(f.hosts[0]+"|"+f.hosts[1], "")
	}
	for i := range n {
		for j := i + 2; j < n; j++ {
			if i == 0 && j == n-1 {
				continue
			}
			if err := f.partition(f.hosts[i]+"|"+f.hosts[j], ""); err != nil {
				return err
			}
		}
	}
	return nil
}

func strikeOneWay(_ context.Context, f *fault) error {
	one, rest := f.hosts[0], strings.Join(f.hosts[1:], ",")
	if f.Share < 0.5 {
		return f.partition(one+">"+rest, "")
	}
	return f.partition(rest+">"+one, "")
}

func strikeFlapping(_ context.Context, f *fault) error {
	f.cut, f.isCut, f.since = f.alone(), true, time.Now()
	return f.partition(f.cut, "")
}

// flap turns the partition on or off once it has been as it is for long enough.
func flap(_ context.Context, f *fault) error {
	if time.Since(f.since) < 150*time.Millisecond+time.Duration(f.Share*float64(700*time.Millisecond)) {
		return nil
	}
	f.isCut, f.since = !f.isCut, time.Now()
	if f.isCut {
		return f.lab.Partition(f.cut, "")
	}
	return f.lab.Mend(f.cut)
}

func strikeProto(proto string) func(context.Context, *fault) error {
	return func(_ context.Context, f *fault) error {
		if f.Share < 0.5 {
			return f.partition(f.alone(), proto)
		}
		return f.partition(strings.Join(f.hosts, "|"), proto)
	}
}

func strikeLoss(_ context.Context, f *fault) error {
	share := 0.05 + 0.25*f.Share
	f.whom = fmt.Sprintf("%s, %.0f%%", strings.Join(f.some(f.hosts), ","), 100*share)
	f.touch(history.AllWays, f.some(f.hosts)...)
	for _, name := range f.some(f.hosts) {
		if err := f.lab.Lose(name, share); err != nil {
			return err
		}
	}
	return nil
}

func strikeWipe(_ context.Context, f *fault) error {
	f.struck = f.hosts[:1]
	f.whom = f.struck[0]
	f.touch(history.AllWays, f.struck...)
	return f.each(func(h *lab.Host) error {
		f.note(history.Ending, h.Name)
		defer f.note(history.Ended, h.Name)
		return h.Wipe()
	})
}

func replace(_ context.Context, f *fault) error {
	return f.each(func(h *lab.Host) error { return h.Start("--replace") })
}

func strikeReaddress(_ context.Context, f *fault) error {
	moved := f.some(f.hosts)
	f.whom = strings.Join(moved, ",")
	f.touch(history.AllWays, moved...)
	var hosts []*lab.Host
	for _, name := range moved {
		h, err := f.lab.Host(name)
		if err != nil {
			return err
		}
		hosts = append(hosts, h)
	}
	err := f.lab.Readdress(hosts...)
	for _, h := range hosts {
		f.moved(h.Name, h.Addr.String())
	}
	return err
}
