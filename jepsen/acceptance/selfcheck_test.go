package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kontiki/jepsen/lab"
)

// TestSelfCheck breaks the replica of a follower and of a leader, in memory, in nodes that
// were built so that this can be done: they find out, refill themselves, and serve again.
func TestSelfCheck(t *testing.T) {
	next := os.Getenv("KONTIKI_NEXT_BIN")
	if next == "" {
		t.Skip("needs a program that was built for tests: run make test")
	}
	t.Setenv("KONTIKI_BIN", next)
	c := newCluster(t, "self", 3)
	h := c.Hosts()[0]
	for i, diverge := range []bool{false, true} {
		for _, leads := range []bool{false, true} {
			name := fmt.Sprintf("note-%d-%v", i, leads)
			t.Run(fmt.Sprintf("diverge=%v leader=%v", diverge, leads), func(t *testing.T) {
				leader := c.leader(t, h)
				broken := leader
				for _, other := range c.Hosts() {
					if !leads && other.Name != leader.Name {
						broken = other
					}
				}
				c.note(t, h, name)
				c.has(t, broken, name)
				before := c.refills(t, broken)
				c.breakMemory(t, broken, "/registry/configmaps/default/"+name, diverge)
				c.note(t, h, name+"-after") // without a write there is nothing to compare
				c.eventually(t, broken.Name+" to refill itself", func(ctx context.Context) error {
					if n := c.refills(t, broken); n <= before {
						return fmt.Errorf("it was refilled %d times", n)
					}
					return nil
				})
				for _, any := range c.Hosts() {
					c.has(t, any, name)
					c.has(t, any, name+"-after")
				}
				if log, err := os.ReadFile(broken.LogPath()); err != nil || !strings.Contains(string(log), "this node's replica is damaged") {
					t.Errorf("the log of %s does not tell: %v", broken.Name, err)
				}
			})
		}
	}
}

// TestProductCannotBeBroken wants nothing in the product's program of what breaks a node on
// request. That it would be seen is shown by the program that can be broken.
func TestProductCannotBeBroken(t *testing.T) {
	next, bin := os.Getenv("KONTIKI_NEXT_BIN"), os.Getenv("KONTIKI_BIN")
	if next == "" || bin == "" {
		t.Skip("needs the product and a program that was built for tests: run make test")
	}
	for path, want := range map[string]bool{bin: false, next: true} {
		program, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// The runtime's table of functions has their names in every program.
		if !bytes.Contains(program, []byte("kontiki/raftstore.Open")) {
			t.Fatalf("%s does not name its functions", path)
		}
		if has := bytes.Contains(program, []byte("kontiki/raftstore.BreakMemory")); has != want {
			t.Errorf("%s can break a replica: %v", path, has)
		}
	}
}

func adminClient(h *lab.Host) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(h.DataDir(), "run", "kontiki.sock"))
	}}}
}

// breakMemory changes what a node's replica holds at a key.
func (c *cluster) breakMemory(t *testing.T, h *lab.Host, key string, diverge bool) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"key": key, "diverge": diverge})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := adminClient(h).Post("http://node/fault/memory", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if said, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", resp.Status, said)
	}
}

// refills is how often a node's replica was refilled, as its metrics tell.
func (c *cluster) refills(t *testing.T, h *lab.Host) (n int) {
	t.Helper()
	out, err := c.tryKubectl(t.Context(), h, "get", "--raw", "/metrics")
	if err != nil {
		return -1 // it does not serve now
	}
	for line := range strings.Lines(out) {
		if _, err := fmt.Sscanf(line, "kontiki_store_replica_refills_total %d", &n); err == nil {
			return n
		}
	}
	return -1
}
