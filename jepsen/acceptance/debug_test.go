package acceptance

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"kontiki/jepsen/lab"
)

// debugs looks into a pod, and at its node, with containers that kubectl debug makes.
func (c *cluster) debugs(t *testing.T, here, there *lab.Host) {
	says := func(pod, container, want string) {
		t.Helper()
		c.eventually(t, "what the container "+container+" says", func(ctx context.Context) error {
			out, err := c.tryKubectl(ctx, here, "logs", pod, "-c", container)
			if err == nil && !strings.Contains(out, want) {
				err = fmt.Errorf("%q, without %q", out, want)
			}
			return err
		})
	}
	// In the processes of the container it looks at: the first is that one's.
	c.kubectl(t, here, "debug", "shell", "--image="+busyboxImage, "--container=looker", "--target=main", "--profile=general", "--", "/bin/cat", "/proc/1/cmdline")
	says("shell", "looker", "sleep\x001000000")

	out := c.kubectl(t, here, "debug", "node/"+there.Name, "--image="+busyboxImage, "--profile=general", "--", "/bin/ls", "-d", "/host/etc")
	var name string
	for word := range strings.FieldsSeq(out) { // "Creating debugging pod NAME with container …"
		if strings.HasPrefix(word, "node-debugger-"+there.Name) {
			name = word
		}
	}
	if name == "" {
		t.Fatalf("kubectl debug named no pod: %q", out)
	}
	says(name, "debugger", "/host/etc\n")
	if node := c.kubectl(t, here, "get", "pod", name, "-o", "jsonpath={.spec.nodeName}"); node != there.Name {
		t.Errorf("the debugging pod is on %s, not on %s", node, there.Name)
	}
	c.kubectl(t, here, "delete", "pod", name, "--grace-period=1")
}

// tops asks every node what nodes, pods and containers use.
func (c *cluster) tops(t *testing.T) {
	for _, h := range c.Hosts() {
		for _, ask := range []struct{ args, wants []string }{
			{[]string{"top", "node"}, names(c.Hosts())},
			{[]string{"top", "node", "n2"}, []string{"n2"}},
			{[]string{"top", "pod"}, []string{"shell", "input", "terminal"}},
			{[]string{"top", "pod", "shell", "--containers"}, []string{"shell", "main"}},
		} {
			c.eventually(t, "kubectl "+strings.Join(ask.args, " ")+" on "+h.Name, func(ctx context.Context) error {
				out, err := c.tryKubectl(ctx, h, ask.args...)
				for _, want := range ask.wants {
					if err == nil && !strings.Contains(out, want) {
						err = fmt.Errorf("no %q in %q", want, out)
					}
				}
				if err == nil && (!strings.Contains(out, "m ") || !strings.Contains(out, "Mi")) {
					err = fmt.Errorf("no use of CPU and memory in %q", out)
				}
				return err
			})
		}
	}
}
