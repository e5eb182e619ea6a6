package lab

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Fault is something wrong with the network of a lab, until Heal.
type Fault struct {
	// Cut names hosts that do not hear each other: groups divided by '|', as
	// "n1,n2|n3", or hosts that are not heard by others, as "n1>n2".
	Cut   string `json:"cut,omitempty"`
	Proto string `json:"proto,omitempty"` // what a cut stops: "udp", "tcp", or all when empty

	Host string  `json:"host,omitempty"`
	Loss float64 `json:"loss,omitempty"` // the share of packets to and from Host that is lost, 0 to 1
	Ring bool    `json:"ring,omitempty"` // only the ring's datagrams are
}

// ringPort is the UDP port of the ring.
const ringPort = 7946

// deafness is what a cut means for one receiver: it hears nothing from a sender.
type deafness struct{ sender, receiver string }

// parseCut tells who does not hear whom. Hosts that are not named hear everybody.
func parseCut(cut string, hosts []string) ([]deafness, error) {
	sides, oneWay := strings.Split(cut, "|"), false
	if strings.Contains(cut, ">") {
		sides, oneWay = strings.Split(cut, ">"), true
	}
	if len(sides) < 2 || oneWay && len(sides) != 2 {
		return nil, fmt.Errorf("%q is no partition: write 'n1,n2|n3', or 'n1>n2' when n2 shall not hear n1 but n1 shall hear n2", cut)
	}
	groups := make([][]string, len(sides))
	var seen []string
	for i, side := range sides {
		for _, name := range strings.Split(side, ",") {
			name = strings.TrimSpace(name)
			switch {
			case !slices.Contains(hosts, name):
				return nil, fmt.Errorf("partition %q: there is no host %q, there are %s", cut, name, strings.Join(hosts, ", "))
			case slices.Contains(seen, name):
				return nil, fmt.Errorf("partition %q: %s is on two sides", cut, name)
			}
			seen = append(seen, name)
			groups[i] = append(groups[i], name)
		}
	}
	var all []deafness
	for i, senders := range groups {
		for j, receivers := range groups {
			if i == j || oneWay && i > j {
				continue
			}
			for _, s := range senders {
				for _, r := range receivers {
					all = append(all, deafness{s, r})
				}
			}
		}
	}
	return all, nil
}

// ParseLoss reads a share like "20%".
func ParseLoss(s string) (float64, error) {
	number, ok := strings.CutSuffix(s, "%")
	percent, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || math.IsNaN(percent) || percent < 0 || percent > 100 {
		return 0, fmt.Errorf("%q is no share of packets: write a number from 0%% to 100%%", s)
	}
	return percent / 100, nil
}

// Partition keeps hosts from hearing each other, besides the faults there are.
// Proto is "udp", "tcp", or empty for all. The machine itself hears all and is
// heard by all.
func (l *Lab) Partition(cut, proto string) error {
	if proto != "" && proto != "udp" && proto != "tcp" {
		return fmt.Errorf("protocol %q: use udp or tcp", proto)
	}
	return l.change(func() error {
		if _, err := parseCut(cut, l.hostNames()); err != nil {
			return err
		}
		l.faults = append(l.faults, Fault{Cut: cut, Proto: proto})
		return nil
	}, l.applyFaults)
}

// Lose makes a host lose a share (0 to 1) of the packets to it, and of those
// from it, the machine's own too. It takes the place of the host's earlier loss.
func (l *Lab) Lose(host string, share float64) error { return l.lose(host, share, false) }

// LoseRing is Lose for the datagrams of the ring alone.
func (l *Lab) LoseRing(host string, share float64) error { return l.lose(host, share, true) }

func (l *Lab) lose(host string, share float64, ring bool) error {
	if share < 0 || share > 1 {
		return errors.New("a share of packets is between 0 and 1")
	}
	return l.change(func() error {
		if _, err := l.Host(host); err != nil {
			return err
		}
		l.faults = slices.DeleteFunc(l.faults, func(f Fault) bool { return f.Host == host })
		if share > 0 {
			l.faults = append(l.faults, Fault{Host: host, Loss: share, Ring: ring})
		}
		return nil
	}, l.applyFaults)
}

// Heal ends all partitions and losses. Hosts that were paused stay so.
func (l *Lab) Heal() error {
	return l.change(func() error { l.faults = nil; return nil }, l.applyFaults)
}

// Mend ends the partitions that were made as cut says, whatever they stop.
func (l *Lab) Mend(cut string) error {
	return l.change(func() error {
		l.faults = slices.DeleteFunc(l.faults, func(f Fault) bool { return f.Cut != "" && f.Cut == cut })
		return nil
	}, l.applyFaults)
}

// Faults are the partitions and losses that are in force.
func (l *Lab) Faults() []Fault { return slices.Clone(l.faults) }

func (l *Lab) applyFaults() error {
	var errs []error
	for _, h := range l.hosts {
		if err := h.applyFaults(); err != nil {
			errs = append(errs, fmt.Errorf("faults of %s: %w", h.Name, err))
		}
	}
	return errors.Join(errs...)
}

// ailments are the faults as one host feels them, in words.
func (h *Host) ailments() (words []string) {
	for _, f := range h.lab.faults {
		if f.Host == h.Name {
			what := ""
			if f.Ring {
				what = " of the ring's datagrams"
			}
			words = append(words, fmt.Sprintf("loses %g%%%s", math.Round(f.Loss*10000)/100, what))
		}
		for _, sender := range h.deafTo(f) {
			word := "deaf to " + sender
			if f.Proto != "" {
				word += " (" + f.Proto + ")"
			}
			words = append(words, word)
		}
	}
	return words
}

// deafTo are the hosts that a fault keeps this host from hearing.
func (h *Host) deafTo(f Fault) (senders []string) {
	if f.Cut == "" {
		return nil
	}
	all, err := parseCut(f.Cut, h.lab.hostNames())
	if err != nil {
		return nil // it was checked when it was made, and no host ever goes
	}
	for _, d := range all {
		if d.receiver == h.Name {
			senders = append(senders, d.sender)
		}
	}
	return senders
}
