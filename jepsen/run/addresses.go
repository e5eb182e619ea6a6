package run

import (
	"sync"

	"kontiki/jepsen/lab"
	"kontiki/jepsen/workload"
)

// addresses are where hosts are now. Clients ask while faults move hosts.
type addresses struct {
	nodes []workload.Node

	mu sync.Mutex
	at map[string]string
}

func addressesOf(l *lab.Lab) (*addresses, error) {
	a := &addresses{at: make(map[string]string)}
	for _, h := range l.Hosts() {
		config, err := h.ClientConfig()
		if err != nil {
			return nil, err
		}
		a.at[h.Name] = h.Addr.String()
		a.nodes = append(a.nodes, workload.Node{Name: h.Name, Config: config, Address: func() string { return a.of(h.Name) }})
	}
	return a, nil
}

func (a *addresses) of(host string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at[host]
}

func (a *addresses) moved(host, address string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at[host] = address
}
