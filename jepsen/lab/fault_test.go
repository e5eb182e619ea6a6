package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCutsAreUnderstood(t *testing.T) {
	hosts := []string{"n1", "n2", "n3", "n4"}
	for _, test := range []struct{ cut, want string }{
		{"n1|n2", "[n1>n2 n2>n1]"},
		{"n1,n2|n3", "[n1>n3 n2>n3 n3>n1 n3>n2]"},
		{"n1|n2|n3", "[n1>n2 n1>n3 n2>n1 n2>n3 n3>n1 n3>n2]"},
		{"n1>n2", "[n1>n2]"},
		{" n1 , n2 > n3 ", "[n1>n3 n2>n3]"},
	} {
		all, err := parseCut(test.cut, hosts)
		var got []string
		for _, d := range all {
			got = append(got, d.sender+">"+d.receiver)
		}
		if fmt.Sprint(got) != test.want || err != nil {
			t.Errorf("%q: %v, %v, want %s", test.cut, got, err, test.want)
		}
	}
	for cut, want := range map[string]string{
		"n1":       "is no partition",
		"":         "is no partition",
		"n1>n2>n3": "is no partition",
		"n1|n5":    `no host "n5"`,
		"n1|":      `no host ""`,
		"n1|n1":    "on two sides",
		"n1|n2>n3": `no host "n1|n2"`,
	} {
		if _, err := parseCut(cut, hosts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error that speaks of %q", cut, err, want)
		}
	}
}

func TestSharesAreUnderstood(t *testing.T) {
	for in, want := range map[string]float64{"0%": 0, "20%": 0.2, "0.5%": 0.005, "100%": 1} {
		if got, err := ParseLoss(in); got != want || err != nil {
			t.Errorf("%q: %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"20", "", "%", "-1%", "101%", "NaN%", "x%"} {
		if got, err := ParseLoss(in); err == nil {
			t.Errorf("%q was taken for %v", in, got)
		}
	}
}

// TestPartition looks at who hears whom, with real packets.
func TestPartition(t *testing.T) {
	l := testLab(t, 3)
	startAll(t, l.Hosts()...)
	n1, n2, n3 := l.Hosts()[0], l.Hosts()[1], l.Hosts()[2]

	patience := map[bool]time.Duration{true: wantAnswer, false: wantSilence}
	expect := func(from, to *Host, wantTCP, wantUDP bool) {
		t.Helper()
		tcp := strings.HasPrefix(play(t, from, "dial", to.Addr.String(), patience[wantTCP].String()), "hello")
		udp := echoes(t, from, to, 1, patience[wantUDP]) == 1
		if tcp != wantTCP || udp != wantUDP {
			t.Errorf("%s and %s, faults %v: TCP %v, UDP %v; want %v, %v", from.Name, to.Name, l.Faults(), tcp, udp, wantTCP, wantUDP)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(l.Partition("n1,n2|n3", ""))
	expect(n1, n2, true, true)
	expect(n1, n3, false, false)
	if got := l.Status(t.Context())[2].Faults; !slices.Equal(got, []string{"deaf to n1", "deaf to n2"}) {
		t.Errorf("status says of n3: %v", got)
	}
	must(l.Heal())
	expect(n1, n3, true, true)

	must(l.Partition("n1|n2", "udp"))
	expect(n1, n2, true, false)
	must(l.Heal())
	must(l.Partition("n1|n2", "tcp"))
	must(l.Partition("n2|n3", "")) // besides the first
	expect(n1, n2, false, true)
	expect(n2, n3, false, false)
	must(l.Heal())

	// One way: no question is answered whoever asks it; see TestOneWay, too.
	must(l.Partition("n1>n2", ""))
	expect(n1, n2, false, false)
	if len(n1.ailments()) != 0 || len(n2.ailments()) != 1 {
		t.Errorf("n1 %v, n2 %v; only n2 is deaf", n1.ailments(), n2.ailments())
	}
	// Faults hold, whoever opens the lab, and follow hosts to new addresses and
	// through reboots.
	again, err := Open(l.cfg)
	must(err)
	must(again.Readdress(again.Hosts()[0]))
	must(again.Hosts()[1].Reboot())
	must(l.read())
	startAll(t, n2)
	expect(n1, n2, false, false)
	must(l.Heal())
	expect(n1, n2, true, true)

	if err := l.Partition("n1|n9", ""); err == nil {
		t.Error("a host that is not there was cut off")
	}
	if err := l.Partition("n1|n2", "sctp"); err == nil {
		t.Error("a protocol that is not known was cut off")
	}
	if len(l.Faults()) != 0 {
		t.Errorf("refused faults are in force: %v", l.Faults())
	}
}

// TestOneWay shows that the other way is open: packets by n2 arrive at n1.
func TestOneWay(t *testing.T) {
	l := testLab(t, 2)
	startAll(t, l.Hosts()...)
	n1, n2 := l.Hosts()[0], l.Hosts()[1]
	if got := echoes(t, n2, n1, 1, wantAnswer); got != 1 { // both know each other's Ethernet address now
		t.Fatal("no echo without a fault")
	}
	before := received(t, n1)
	if err := l.Partition("n1>n2", "udp"); err != nil {
		t.Fatal(err)
	}
	if got := echoes(t, n2, n1, 5, wantSilence); got != 0 {
		t.Errorf("%d echoes came back", got)
	}
	if got := received(t, n1) - before; got < 5 { // and those that say that no more follow
		t.Errorf("n1 received %d packets, want 5 and more", got)
	}
}

// TestLoss counts echoes: each packet has to leave n1 and enter it again.
func TestLoss(t *testing.T) {
	l := testLab(t, 2)
	startAll(t, l.Hosts()...)
	n1, n2 := l.Hosts()[0], l.Hosts()[1]
	const count = 1500
	if got := echoes(t, n1, n2, 1, wantAnswer); got != 1 { // both know each other's Ethernet address now
		t.Fatal("no echo without a fault")
	}
	if err := l.Lose("n1", 0.2); err != nil {
		t.Fatal(err)
	}
	// 0.8 × 0.8 of 1,500 is 960; the deviation is 19, and 120 is beyond six of them.
	if got := echoes(t, n1, n2, count, wantAnswer); got < 840 || got > 1080 {
		t.Errorf("%d of %d packets went there and back with 20%% loss each way, want about 960", got, count)
	}
	if got := l.Status(t.Context())[0].Faults; !slices.Equal(got, []string{"loses 20%"}) {
		t.Errorf("status says %v", got)
	}
	if err := l.Lose("n1", 1); err != nil {
		t.Fatal(err)
	}
	if got := echoes(t, n1, n2, 10, wantSilence); got != 0 {
		t.Errorf("%d packets went there and back with all lost", got)
	}
	if err := l.Lose("n1", 0); err != nil || len(l.Faults()) != 0 {
		t.Fatalf("no loss: %v, faults %v", err, l.Faults())
	}
	if got := echoes(t, n1, n2, 100, wantAnswer); got != 100 {
		t.Errorf("%d of 100 packets went there and back after the loss was ended", got)
	}
}
