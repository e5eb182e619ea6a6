package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// cluster is virtual hosts with a cluster on them, driven by the command `kontiki lab`.
type cluster struct{ kontiki string }

const labName = "benchctl"

// host is what the lab tells of a host.
type host struct {
	Name   string `json:"host"`
	Leader string `json:"leader"` // as this host's node sees it
}

// newCluster makes hosts and waits until all are Ready; what an earlier run left is
// removed first.
func newCluster(ctx context.Context, bin string, nodes int) (*cluster, error) {
	kontiki, err := filepath.Abs(filepath.Join(bin, "kontiki"))
	if err != nil {
		return nil, err
	}
	c := &cluster{kontiki}
	if err := c.remove(); err != nil {
		return nil, err
	}
	_, err = c.run(ctx, "up", "--nodes", strconv.Itoa(nodes))
	return c, err
}

func (c *cluster) remove() error {
	_, err := c.run(context.Background(), "down")
	return err
}

// run is not in the terminal's process group: an interrupt is for the bench, which
// removes the hosts.
func (c *cluster) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.kontiki, append([]string{"lab", "--name", labName}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kontiki lab %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), bad.String())
	}
	return out.String(), nil
}

func (c *cluster) hosts(ctx context.Context) (hosts []host, err error) {
	out, err := c.run(ctx, "status", "-o", "json")
	if err != nil {
		return nil, err
	}
	return hosts, json.Unmarshal([]byte(out), &hosts)
}

// config is the administrator's access to the API of one host.
func (c *cluster) config(ctx context.Context, host string) (*rest.Config, error) {
	out, err := c.run(ctx, "kubeconfig", host)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", strings.TrimSpace(out))
	if err == nil {
		config.QPS = -1
	}
	return config, err
}

// kill ends a host's node at once.
func (c *cluster) kill(ctx context.Context, host string) error {
	_, err := c.run(ctx, "kill", host)
	return err
}
