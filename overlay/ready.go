package overlay

import (
	"errors"
	"fmt"
)

// Ready says why no pod can be attached yet, nil when one can. Node conditions
// are made of it.
func (n *Network) Ready() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case len(n.grant.Subnets) == 0:
		return errors.New("the node has no pod subnet yet (Node.spec.podCIDRs)")
	case n.mtu == 0:
		return fmt.Errorf("the node's own address %s is on no device yet", n.cfg.Underlay())
	}
	return nil
}
