package gossip

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const fileVersion = 1

// card is a member in the address book, on disk and in push-pull.
type card struct {
	ID          string `codec:"i" json:"id"`
	Name        string `codec:"n" json:"name"`
	Addr        string `codec:"a" json:"address"`
	ClusterPort uint16 `codec:"p" json:"port"`
	ClusterID   string `codec:"c" json:"cluster,omitempty"`
	Zone        string `codec:"z" json:"zone,omitempty"`
	Version     string `codec:"v" json:"version,omitempty"`
	Incarnation uint64 `codec:"l" json:"incarnation"`
	Epoch       string `codec:"e" json:"epoch,omitempty"`
}

func cardOf(m Member) card {
	return card{m.ID, m.Name, m.Addr.String(), m.ClusterPort, m.ClusterID, m.Zone, m.Version, m.Incarnation, m.Epoch}
}

func (c card) member() (Member, error) {
	addr, err := netip.ParseAddr(c.Addr)
	if err != nil {
		return Member{}, fmt.Errorf("gossip: address of %q: %w", c.ID, err)
	}
	m := Member{ID: c.ID, Name: c.Name, Addr: addr, ClusterPort: c.ClusterPort, ClusterID: c.ClusterID, Epoch: c.Epoch,
		Zone: c.Zone, Version: c.Version, Incarnation: c.Incarnation}
	if !validID(c.ID) || c.ClusterPort == 0 || len(c.Name) > maxNameLen {
		return Member{}, fmt.Errorf("gossip: the entry of %q is malformed", c.ID)
	}
	return m, Meta{c.ClusterID, c.Epoch, c.Zone, c.Version}.validate()
}

type bookFile struct {
	Format  int    `json:"format"`
	Members []card `json:"members"`
}

type leaseFile struct {
	Format int         `json:"format"`
	Leases []wireLease `json:"leases"`
}

// shelf is the ring's files that hold what others could tell it again: losing one
// costs time, not safety. A file is written only when its content changes.
type shelf struct {
	dir     string
	written map[string]string
}

const (
	bookName        = "book.json"
	leasesName      = "leases.json"
	incarnationName = "incarnation"
)

func (s *shelf) write(name string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("gossip: encode %s: %w", name, err)
	}
	b = append(b, '\n')
	if s.written[name] == string(b) {
		return nil
	}
	if err := writeFile(filepath.Join(s.dir, name), b); err != nil {
		return err
	}
	s.written[name] = string(b)
	return nil
}

// read fills v from a file. A file that cannot be understood is set aside, and the
// returned error says so; the caller goes on without it.
func (s *shelf) read(name string, v any, format *int) error {
	path := filepath.Join(s.dir, name)
	b, err := readFile(path)
	if err != nil || b == nil {
		return err
	}
	if err = json.Unmarshal(b, v); err == nil && *format != fileVersion {
		err = fmt.Errorf("format %d, this version knows %d", *format, fileVersion)
	}
	if err != nil {
		os.Rename(path, path+".bad")
		return fmt.Errorf("gossip: %s cannot be used and was renamed to %s.bad: %w", path, name, err)
	}
	s.written[name] = string(b)
	return nil
}

// Forget removes what a stopped node remembers of its ring: promises, members, leases.
// Its count of lives stays, so that others take it for the same node.
func Forget(dir string) error {
	for _, name := range []string{formationName, bookName, leasesName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("gossip: %w", err)
		}
	}
	if err := syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// readBook returns the members on disk; problems are those of single entries or
// of the file, none of which stops the ring.
func (s *shelf) readBook() (members []Member, problems []error) {
	var f bookFile
	if err := s.read(bookName, &f, &f.Format); err != nil {
		return nil, []error{err}
	}
	for _, c := range f.Members {
		m, err := c.member()
		if err != nil {
			problems = append(problems, err)
			continue
		}
		members = append(members, m)
	}
	return members, problems
}

func (s *shelf) readLeases() (leases []Lease, problems []error) {
	var f leaseFile
	if err := s.read(leasesName, &f, &f.Format); err != nil {
		return nil, []error{err}
	}
	for _, w := range f.Leases {
		l, err := w.lease()
		if err != nil {
			problems = append(problems, err)
			continue
		}
		leases = append(leases, l)
	}
	return leases, problems
}

// nextLife counts the lives of this node, durably, so that no two share a name in
// the ring. It is at least floor. With an error it returns the best it knows.
func nextLife(dir string, floor uint64, now time.Time) (uint64, error) {
	path := filepath.Join(dir, incarnationName)
	b, err := readFile(path)
	if err != nil {
		return floor, fmt.Errorf("gossip: %w", err)
	}
	last := uint64(0)
	if b != nil {
		if last, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err != nil {
			// Unreadable: the time is larger than any count of lives.
			last = uint64(max(now.Unix(), 0))
		}
	}
	life := max(last+1, floor)
	return life, writeFile(path, []byte(strconv.FormatUint(life, 10)+"\n"))
}
