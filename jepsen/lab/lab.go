package lab

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// DefaultRoot is where labs keep what their hosts write.
const DefaultRoot = "/var/lib/kontiki-lab"

// maxHosts is how many hosts fit on a lab's bridge: .11 to .250.
const maxHosts = 240

// ErrNoLab is returned for a lab that does not exist.
var ErrNoLab = errors.New("there is no such lab; start one with: kontiki lab up")

// validName keeps interface names (15 characters) and paths simple.
var validName = regexp.MustCompile(`^[a-z0-9]{1,8}$`)

// Config says what lab is meant and what it runs.
type Config struct {
	Name   string // up to 8 characters of a-z0-9; "default" when empty
	Root   string // DefaultRoot when empty
	Binary string // the kontiki program that hosts run
}

// Lab is a set of virtual hosts.
type Lab struct {
	cfg    Config
	subnet netip.Prefix
	hosts  []*Host
}

// record is what a lab writes down: what cannot be told from names.
type record struct {
	Subnet netip.Prefix `json:"subnet"`
	Hosts  []string     `json:"hosts"`
	Binary string       `json:"binary"`
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
	l := &Lab{cfg: cfg}
	if _, err := os.Stat(l.recordPath()); err == nil {
		return nil, fmt.Errorf("lab %q is there already: use it, or remove it with: kontiki lab down --name %s", cfg.Name, cfg.Name)
	}
	if err := l.remove(); err != nil { // what a crash left
		return nil, err
	}
	if err := os.MkdirAll(l.dir(), 0o755); err != nil {
		return nil, err
	}
	if l.subnet, err = freeSubnet(); err != nil {
		return nil, err
	}
	for i := range n {
		l.hosts = append(l.hosts, l.host("n"+strconv.Itoa(i+1)))
	}
	if err := l.write(); err != nil {
		return nil, err
	}
	var secret [32]byte
	rand.Read(secret[:])
	if err := os.WriteFile(l.secretPath(), []byte(hex.EncodeToString(secret[:])+"\n"), 0o600); err != nil {
		return nil, err
	}
	if err := l.makeBridge(); err != nil {
		return nil, err
	}
	if err := l.makePins(); err != nil {
		return nil, err
	}
	for _, h := range l.hosts {
		if err := h.create(); err != nil {
			return nil, fmt.Errorf("make host %s: %w", h.Name, err)
		}
	}
	return l, nil
}

// Open finds a lab that was made before.
func Open(cfg Config) (*Lab, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Lab{cfg: cfg}
	data, err := os.ReadFile(l.recordPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %q: %w", cfg.Name, ErrNoLab)
	}
	if err != nil {
		return nil, err
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, fmt.Errorf("%s: %w", l.recordPath(), err)
	}
	l.subnet = rec.Subnet
	if l.cfg.Binary == "" {
		l.cfg.Binary = rec.Binary
	}
	for _, name := range rec.Hosts {
		l.hosts = append(l.hosts, l.host(name))
	}
	return l, nil
}

// Down ends every process of the lab and removes all that it made, whether or
// not it was made whole. A lab that does not exist is down already.
func Down(cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	return (&Lab{cfg: cfg}).remove()
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
	if err := os.RemoveAll(l.dir()); err != nil {
		return err
	}
	os.Remove(l.cfg.Root) // when this was the last lab
	return nil
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

func (l *Lab) host(name string) *Host {
	number, _ := strconv.Atoi(strings.TrimPrefix(name, "n"))
	return &Host{Name: name, Addr: addrAt(l.subnet, 10+number), lab: l}
}

func (l *Lab) write() error {
	data, err := json.MarshalIndent(record{l.subnet, l.hostNames(), l.cfg.Binary}, "", "  ")
	if err != nil {
		return err
	}
	tmp := l.recordPath() + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, l.recordPath())
}

func (l *Lab) dir() string        { return filepath.Join(l.cfg.Root, l.cfg.Name) }
func (l *Lab) recordPath() string { return filepath.Join(l.dir(), "lab.json") }
func (l *Lab) secretPath() string { return filepath.Join(l.dir(), "join-secret") }
func (l *Lab) pins() string       { return filepath.Join("/run/kontiki-lab", l.cfg.Name) }
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
