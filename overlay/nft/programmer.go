package nft

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"kontiki/overlay/service"
)

const (
	// chunk is how many elements go into one message: a message has 64 KiB.
	chunk = 400
	// socketBuffer must hold the acknowledgements of a whole transaction.
	socketBuffer = 16 << 20
)

// Programmer keeps the table.
type Programmer struct {
	fd  int // of the network namespace; 0: the process's own
	log *slog.Logger

	mu       sync.Mutex     // protects the fields below and the table
	c        *nftables.Conn // nil: none yet
	asking   *netlink.Conn  // for the generation; nil: none yet
	base     Base
	pools    map[service.Frontend]service.Pool
	hairpins map[netip.Addr]int // local endpoints, and how many pools have them
	layout   *layout            // nil: the table is not as we want it, or not known to be
	started  bool               // SetBase was called
	replaced bool               // Replace was called
	adopted  bool               // an earlier process's table still serves
	gen      uint32             // of the rule set after our last change
}

// New returns a programmer for the network namespace of fd; 0 is the process's own.
func New(fd int, logger *slog.Logger) *Programmer {
	return &Programmer{fd: fd, log: logger, pools: map[service.Frontend]service.Pool{}}
}

// conn returns the connection, which lasts: closing one right after a change
// waits until the kernel has freed what was removed, 10 ms and more.
func (p *Programmer) conn() (*nftables.Conn, error) {
	if p.c != nil {
		return p.c, nil
	}
	c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(p.fd), nftables.WithSockOptions(
		func(c *netlink.Conn) error { return c.SetWriteBuffer(socketBuffer) },
		func(c *netlink.Conn) error { return c.SetReadBuffer(socketBuffer) },
	))
	if err != nil {
		return nil, fmt.Errorf("talking to nftables (this needs root): %w", err)
	}
	p.c = c
	return c, nil
}

// hangUp closes the connections; after a failure they may hold answers to
// questions nobody asks any more.
func (p *Programmer) hangUp() {
	if p.c != nil {
		p.c.CloseLasting()
		p.c = nil
	}
	if p.asking != nil {
		p.asking.Close()
		p.asking = nil
	}
}

// Close ends the conversation with the kernel; the table stays.
func (p *Programmer) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hangUp()
}

// SetBase says what the table depends on besides the Services. The first call
// puts the table in place, unless one of an earlier process is there: that goes
// on serving until Replace knows what should be in it.
func (p *Programmer) SetBase(b Base) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started && reflect.DeepEqual(b, p.base) {
		return nil
	}
	if !p.started {
		c, err := p.conn()
		if err != nil {
			return err
		}
		t, err := c.ListTableOfFamily(TableName, nftables.TableFamilyIPv4)
		p.adopted = err == nil && t != nil && !p.replaced
		p.started = true
	}
	p.base = b
	if p.adopted {
		return nil
	}
	return p.rebuildLocked()
}

// Replace implements service.Programmer.
func (p *Programmer) Replace(pools map[service.Frontend]service.Pool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pools, p.adopted, p.replaced = pools, false, true
	if !p.started {
		return nil // the first SetBase programs it
	}
	return p.rebuildLocked()
}

// Update implements service.Programmer. Should the kernel not hold what it was
// told, the whole table is made anew.
func (p *Programmer) Update(changes []service.Change) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ch := range changes {
		if ch.New == nil {
			delete(p.pools, ch.Frontend)
		} else {
			p.pools[ch.Frontend] = *ch.New
		}
	}
	if p.adopted || !p.started || len(changes) == 0 {
		return nil
	}
	if p.layout != nil {
		err := p.updateLocked(changes)
		if err == nil {
			return nil
		}
		p.log.Warn("nftables did not hold what was programmed, programming all Services anew", "error", err)
	}
	return p.rebuildLocked()
}

func (p *Programmer) updateLocked(changes []service.Change) error {
	d := newDelta()
	hairpins := map[netip.Addr]int{} // by how much each count changes
	for _, ch := range changes {
		d.change(ch)
		p.countHairpins(hairpins, ch.Old, -1)
		p.countHairpins(hairpins, ch.New, +1)
	}
	for addr, n := range hairpins {
		switch was := p.hairpins[addr]; {
		case was == 0 && was+n > 0:
			d.add(hairpinSet, hairpinElement(addr))
		case was > 0 && was+n == 0:
			d.remove(hairpinSet, hairpinElement(addr))
		}
	}
	if d.empty() {
		return nil // a port of the node without endpoints is nowhere
	}
	c, err := p.conn()
	if err != nil {
		return err
	}
	if err := d.write(c, p.layout); err != nil {
		return err
	}
	if err := p.flushLocked(c); err != nil {
		p.layout = nil
		return err
	}
	for addr, n := range hairpins {
		if p.hairpins[addr] += n; p.hairpins[addr] == 0 {
			delete(p.hairpins, addr)
		}
	}
	return nil
}

// rebuildLocked replaces the whole table in one transaction: no packet sees
// anything but the old one or the new one. Connections keep their translation,
// which is conntrack's.
func (p *Programmer) rebuildLocked() error {
	c, err := p.conn()
	if err != nil {
		return err
	}
	l := newLayout()
	clients := p.clients(c, l)
	c.AddTable(l.table) // so that deleting it cannot fail
	c.DelTable(l.table)
	if err := l.build(c, p.base); err != nil {
		return err
	}
	d := newDelta()
	p.hairpins = map[netip.Addr]int{}
	for f, pool := range p.pools {
		d.change(service.Change{Frontend: f, New: &pool})
		p.countHairpins(p.hairpins, &pool, +1)
	}
	for addr := range p.hairpins {
		d.add(hairpinSet, hairpinElement(addr))
	}
	if err := d.write(c, l); err != nil {
		return err
	}
	for ; len(clients) > 0; clients = clients[min(chunk, len(clients)):] {
		if err := c.SetAddElements(l.affinity, clients[:min(chunk, len(clients))]); err != nil {
			return fmt.Errorf("planning %s: %w", l.affinity.Name, err)
		}
	}
	if err := p.flushLocked(c); err != nil {
		p.layout = nil
		return err
	}
	p.layout = l
	return nil
}

// clients reads which clients have which endpoint, for a table that takes the
// place of the one there is: a restart of the node moves nobody. None when they
// cannot be read.
func (p *Programmer) clients(c *nftables.Conn, l *layout) []nftables.SetElement {
	have, err := c.GetSetElements(l.affinity)
	if err != nil {
		p.log.Debug("reading session affinity", "error", err) // no table yet, or an older one
		return nil
	}
	var out []nftables.SetElement
	for _, e := range have {
		if e.Expires > 0 {
			out = append(out, nftables.SetElement{Key: e.Key, Val: e.Val, Timeout: e.Expires})
		}
	}
	return out
}

func (p *Programmer) countHairpins(count map[netip.Addr]int, pool *service.Pool, by int) {
	if pool == nil {
		return
	}
	for _, ep := range pool.Endpoints {
		for _, s := range p.base.Subnets {
			if s.Contains(ep.Addr()) {
				count[ep.Addr()] += by
			}
		}
	}
}

// flushLocked commits the batch, which must change something, and notes the
// generation it made. If somebody else changed rules around it, that is none the
// rule set ever has again, so that the next Check looks.
func (p *Programmer) flushLocked(c *nftables.Conn) error {
	before, err := p.generation()
	if err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		p.hangUp()
		return fmt.Errorf("programming nftables: %w", err)
	}
	after, err := p.generation()
	if err != nil {
		return err
	}
	p.gen = after
	if after != before+1 {
		p.gen = before
	}
	return nil
}

// Check repairs the table if somebody changed it, and says whether it had to.
// As long as nobody changed any rule on the machine it costs one question.
func (p *Programmer) Check() (repaired bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gen, err := p.generation()
	if err != nil {
		return false, err
	}
	if p.adopted || !p.started || p.layout != nil && gen == p.gen {
		return false, nil
	}
	if p.layout != nil {
		intact, err := p.intactLocked()
		if err != nil {
			p.log.Debug("looking at the nftables table", "error", err)
		}
		if intact {
			p.gen = gen
			return false, nil
		}
	}
	return true, p.rebuildLocked()
}

// Teardown removes the table.
func (p *Programmer) Teardown() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.conn()
	if err != nil {
		return err
	}
	t := newLayout().table
	c.AddTable(t)
	c.DelTable(t)
	p.layout = nil
	if err := c.Flush(); err != nil {
		p.hangUp()
		return fmt.Errorf("removing the nftables table %s: %w", TableName, err)
	}
	return nil
}

// generation asks for the number of the rule set, which every committed change
// of anybody raises by one.
func (p *Programmer) generation() (uint32, error) {
	if p.asking == nil {
		c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: p.fd})
		if err != nil {
			return 0, fmt.Errorf("talking to nftables (this needs root): %w", err)
		}
		p.asking = c
	}
	msgs, err := p.asking.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		p.hangUp()
		return 0, fmt.Errorf("asking nftables for its generation: %w", err)
	}
	for _, m := range msgs {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, err
		}
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID && len(ad.Bytes()) == 4 {
				b := ad.Bytes()
				return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]), nil
			}
		}
	}
	return 0, errors.New("nftables did not name its generation: the kernel is too old")
}
