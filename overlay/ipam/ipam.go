// Package ipam owns the addresses of the pods of one node: which address of the
// node's subnets belongs to which pod, kept on disk before anyone may use it.
//
// A Book is safe for use by any number of goroutines. Only overlay imports this
// package.
package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

var (
	// ErrNoSubnet says that no subnet has been granted to this node yet.
	ErrNoSubnet = errors.New("this node has no pod subnet yet: it is granted by the cluster's leader, which this node may not have reached since it joined")
	// ErrFull says that every address of the subnet is held by a pod.
	ErrFull = errors.New("every address of the node's pod subnet is in use: delete pods on this node, or form the cluster with larger subnets per node")
)

// hold is how long an address rests after its pod is gone, as long as another is
// free: what was on its way to the old pod must not reach a new one.
const hold = 60 * time.Second

// HostPort is a port of the node that leads to a port of the pod.
type HostPort struct {
	HostIP        netip.Addr `json:"hostIP,omitzero"` // zero: any address of the node
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
	Protocol      string     `json:"protocol"` // TCP, UDP or SCTP
}

// Record is what the book holds of one pod.
type Record struct {
	UID       string       `json:"uid"`
	Namespace string       `json:"namespace,omitempty"`
	Name      string       `json:"name,omitempty"`
	NetNS     string       `json:"netns,omitempty"` // path of the pod's network namespace
	Addrs     []netip.Addr `json:"addrs"`
	HostPorts []HostPort   `json:"hostPorts,omitempty"`
	// OwnPath says that the pod's resolver has another search path than its
	// namespace's.
	OwnPath bool `json:"ownPath,omitempty"`
}

// Book is the address book of a node's pods. Every change is on disk before the
// call that made it returns.
type Book struct {
	path string
	now  func() time.Time

	mu      sync.Mutex // protects the fields below
	subnets []netip.Prefix
	state   state
}

// state is what the file holds.
type state struct {
	Version int                   `json:"version"`
	Records map[string]Record     `json:"records"`
	Rings   map[netip.Prefix]ring `json:"rings"`
}

// Open reads the book at path, or starts a blank one. now is the clock.
func Open(path string, now func() time.Time) (*Book, error) {
	b := &Book{path: path, now: now, state: state{Version: 1}}
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("reading the pods' addresses: %w", err)
	default:
		if err := json.Unmarshal(raw, &b.state); err != nil {
			return nil, fmt.Errorf("%s cannot be read as the pods' addresses (%w): stop the pods of this node, remove the file and start again", path, err)
		}
		if b.state.Version != 1 {
			return nil, fmt.Errorf("%s is of version %d, which this program does not know: use the newer program that wrote it", path, b.state.Version)
		}
	}
	if b.state.Records == nil {
		b.state.Records = map[string]Record{}
	}
	if b.state.Rings == nil {
		b.state.Rings = map[netip.Prefix]ring{}
	}
	return b, nil
}

// SetSubnets says from which subnets to allocate from now on: one address of
// each. Addresses of other subnets stay with the pods that hold them.
func (b *Book) SetSubnets(subnets []netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subnets = slices.Clone(subnets)
}

// Allocate gives the pod want.UID its addresses, the same ones when it has some,
// and remembers the rest of want. The record returned is what is on disk.
func (b *Book) Allocate(want Record) (Record, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, known := b.state.Records[want.UID]
	if known {
		want.Addrs = old.Addrs
		if sameRecord(old, want) {
			return old, nil
		}
		return want, b.commitLocked(want.UID, &want, nil)
	}
	if len(b.subnets) == 0 {
		return Record{}, ErrNoSubnet
	}
	used := b.usedLocked()
	rings := map[netip.Prefix]ring{}
	want.Addrs = nil
	for _, subnet := range b.subnets {
		r := b.state.Rings[subnet].clone()
		addr, ok := r.take(subnet, used, b.now())
		if !ok {
			return Record{}, fmt.Errorf("%s: %w", subnet, ErrFull)
		}
		want.Addrs = append(want.Addrs, addr)
		rings[subnet] = r
	}
	return want, b.commitLocked(want.UID, &want, rings)
}

// Release gives the pod's addresses back. A pod that has none is no error.
func (b *Book) Release(uid string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	rec, ok := b.state.Records[uid]
	if !ok {
		return nil
	}
	rings := map[netip.Prefix]ring{}
	for _, addr := range rec.Addrs {
		for subnet, r := range b.state.Rings {
			if subnet.Contains(addr) {
				if done, ok := rings[subnet]; ok {
					r = done
				} else {
					r = r.clone()
				}
				r.release(addr, b.now())
				rings[subnet] = r
			}
		}
	}
	return b.commitLocked(uid, nil, rings)
}

// Get returns the record of a pod.
func (b *Book) Get(uid string) (Record, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.state.Records[uid]
	return r, ok
}

// Records returns all records, by uid.
func (b *Book) Records() []Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Record, 0, len(b.state.Records))
	for _, r := range b.state.Records {
		out = append(out, r)
	}
	slices.SortFunc(out, func(x, y Record) int { return strings.Compare(x.UID, y.UID) })
	return out
}

// NamespaceOf returns the namespace of the pod that has an address, unless the pod
// has a search path of its own.
func (b *Book) NamespaceOf(addr netip.Addr) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.state.Records {
		if slices.Contains(r.Addrs, addr) {
			return r.Namespace, !r.OwnPath
		}
	}
	return "", false
}

func (b *Book) usedLocked() map[netip.Addr]bool {
	used := map[netip.Addr]bool{}
	for _, r := range b.state.Records {
		for _, a := range r.Addrs {
			used[a] = true
		}
	}
	return used
}

// commitLocked writes the state with one record (nil: none) and the given rings
// changed, and only then makes it the state in memory: a write that failed
// leaves both as they were.
func (b *Book) commitLocked(uid string, rec *Record, rings map[netip.Prefix]ring) error {
	next := state{Version: 1, Records: make(map[string]Record, len(b.state.Records)+1), Rings: make(map[netip.Prefix]ring, len(b.state.Rings)+1)}
	for k, v := range b.state.Records {
		next.Records[k] = v
	}
	for k, v := range b.state.Rings {
		next.Rings[k] = v
	}
	delete(next.Records, uid)
	if rec != nil {
		next.Records[uid] = *rec
	}
	for k, v := range rings {
		next.Rings[k] = v
	}
	raw, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := WriteFile(b.path, raw); err != nil {
		return fmt.Errorf("keeping the pods' addresses: %w", err)
	}
	b.state = next
	return nil
}

func sameRecord(a, b Record) bool {
	return a.UID == b.UID && a.Namespace == b.Namespace && a.Name == b.Name && a.NetNS == b.NetNS &&
		slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.HostPorts, b.HostPorts) && a.OwnPath == b.OwnPath
}

// WriteFile replaces the file at path so that after a crash it is either the old
// one or the new one, whole.
func WriteFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
