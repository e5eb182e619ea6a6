package lab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// DefaultRoot is where labs keep what their hosts write.
const DefaultRoot = "/var/lib/kontiki-lab"

// pinRoot is where the namespaces of all labs are kept.
const pinRoot = "/run/kontiki-lab"

// Addresses of hosts end in firstHost to lastHost. Half of them are left free for
// hosts that are readdressed.
const (
	firstHost = 11
	lastHost  = 250
	maxHosts  = 120
)

// ErrNoLab is returned for a lab that does not exist.
var ErrNoLab = errors.New("there is no such lab; start one with: kontiki lab up")

// ErrExists is returned for a lab that was made before.
var ErrExists = errors.New("the lab is there already")

// validName keeps interface names (15 characters) and paths simple.
var validName = regexp.MustCompile(`^[a-z0-9]{1,8}$`)

// Config says what lab is meant and what it runs.
type Config struct {
	Name   string // up to 8 characters of a-z0-9; "default" when empty
	Root   string // DefaultRoot when empty
	Binary string // the kontiki program that hosts run
	Beacon bool   // nodes are given no --join: they find each other by their beacon
}

// Lab is a set of virtual hosts.
type Lab struct {
	cfg    Config
	subnet netip.Prefix
	expect int // how many nodes found the cluster
	hosts  []*Host
	last   int // last byte of the address that was given out last
	faults []Fault
}

// Create makes the bridge and n hosts, without starting a node on any.
func Create(cfg Config, n int) (*Lab, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if n < 1 || n > maxHosts {
		return nil, fmt.Errorf("a lab has 1 to %d nodes, not %d", maxHosts, n)
	}
	if os.Getuid() != 0 {
		return nil, errors.New("a lab makes network and mount namespaces: run it as root")
	}
	unlock, err := lockLabs()
	if err != nil {
		return nil, err
	}
	defer unlock()
	l := &Lab{cfg: cfg, expect: n}
	if _, err := os.Stat(l.recordPath()); err == nil {
		return nil, fmt.Errorf("%w; use it, or remove it with: kontiki lab down --name %s", ErrExists, cfg.Name)
	}
	if err := l.remove(); err != nil { // what a crash left
		return nil, err
	}
	if err := l.make(n); err != nil {
		return nil, errors.Join(err, l.remove())
	}
	return l, nil
}

func (l *Lab) make(n int) (err error) {
	if err := os.MkdirAll(l.dir(), 0o755); err != nil {
		return err
	}
	if l.subnet, err = freeSubnet(); err != nil {
		return err
	}
	l.last = firstHost - 1
	for range n {
		if _, err := l.newHost(); err != nil {
			return err
		}
	}
	var secret [32]byte
	rand.Read(secret[:])
	if err := os.WriteFile(l.secretPath(), []byte(hex.EncodeToString(secret[:])+"\n"), 0o600); err != nil {
		return err
	}
	if err := l.writeNames(); err != nil {
		return err
	}
	if err := l.makeBridge(); err != nil {
		return err
	}
	if err := l.makePins(); err != nil {
		return err
	}
	for _, h := range l.hosts {
		if err := h.create(); err != nil {
			return fmt.Errorf("make host %s: %w", h.Name, err)
		}
	}
	return l.write() // last: from now on it is a lab
}

// Open finds a lab that was made before.
func Open(cfg Config) (*Lab, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Lab{cfg: cfg}
	return l, l.read()
}

// Down ends every process of the lab and removes all that it made, whether or
// not it was made whole. A lab that does not exist is down already.
func Down(cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	l := &Lab{cfg: cfg}
	if err := l.remove(); err != nil {
		return err
	}
	return l.removeShared()
}

func (l *Lab) remove() error {
	// Processes first: they hold namespaces, and namespaces hold mounts and links.
	if err := killCgroup(l.cgroup()); err != nil {
		return err
	}
	if err := l.removePins(); err != nil {
		return err
	}
	if err := l.removeLinks(); err != nil {
		return err
	}
	if err := removeCgroup(l.cgroup()); err != nil {
		return err
	}
	return os.RemoveAll(l.dir())
}

// Hosts are the lab's hosts, in order.
func (l *Lab) Hosts() []*Host { return slices.Clone(l.hosts) }

// Host finds a host by name.
func (l *Lab) Host(name string) (*Host, error) {
	for _, h := range l.hosts {
		if h.Name == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("lab %q has no host %q, it has %s", l.cfg.Name, name, strings.Join(l.hostNames(), ", "))
}

func (l *Lab) hostNames() []string {
	var names []string
	for _, h := range l.hosts {
		names = append(names, h.Name)
	}
	return names
}

// Shared is a folder that the machine and all hosts have in common. It goes with the lab.
func (l *Lab) Shared() string { return filepath.Join(l.dir(), "shared") }

func (l *Lab) dir() string        { return filepath.Join(l.cfg.Root, l.cfg.Name) }
func (l *Lab) recordPath() string { return filepath.Join(l.dir(), "lab.json") }
func (l *Lab) secretPath() string { return filepath.Join(l.dir(), "join-secret") }
func (l *Lab) pins() string       { return filepath.Join(pinRoot, l.cfg.Name) }
func (l *Lab) cgroup() string     { return "kontiki-lab-" + l.cfg.Name }
func (l *Lab) bridge() string     { return "kl-" + l.cfg.Name }
func (l *Lab) gateway() netip.Addr {
	return addrAt(l.subnet, 1)
}

func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = "default"
	}
	if !validName.MatchString(c.Name) {
		return c, fmt.Errorf("%q is no name for a lab: use 1 to 8 characters of a-z and 0-9", c.Name)
	}
	if c.Root == "" {
		c.Root = DefaultRoot
	}
	return c, nil
}

// addrAt is the n-th address of an IPv4 prefix of 24 bits.
func addrAt(p netip.Prefix, n int) netip.Addr {
	raw := p.Masked().Addr().As4()
	raw[3] = byte(n)
	return netip.AddrFrom4(raw)
}
