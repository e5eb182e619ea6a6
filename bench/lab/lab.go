// Package lab drives virtual hosts by the command `kontiki lab`, as a user would,
// and finds the processes of their nodes. A Lab is used by one goroutine at a
// time. Only the bench imports it.
package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"kontiki/bench/proc"
)

// Lab is a set of virtual hosts of its own.
type Lab struct {
	kontiki string // the program
	name    string
}

// Birth is how long a cluster took, from the start of its nodes.
type Birth struct{ Formed, Ready time.Duration }

// New names a lab that bin/kontiki makes. What an earlier run left of it is removed.
func New(bin, name string) (*Lab, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("a lab needs root")
	}
	kontiki, err := filepath.Abs(filepath.Join(bin, "kontiki"))
	if err != nil {
		return nil, err
	}
	l := &Lab{kontiki, name}
	return l, l.Down()
}

// command runs `kontiki lab`. It is not in the terminal's process group: an
// interrupt is for the bench, which takes the lab down.
func (l *Lab) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, l.kontiki, append([]string{"lab", "--name", l.name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kontiki lab %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), bad.String())
	}
	return out.String(), nil
}

var (
	formedLine = regexp.MustCompile(`(?m)^ *([0-9.]+)s +formed`)
	readyLine  = regexp.MustCompile(`(?m)^ *([0-9.]+)s +all [0-9]+ nodes are Ready`)
)

// Up makes the hosts, starts their nodes, with options of kontiki node if some are given, and waits
// until all are Ready.
func (l *Lab) Up(ctx context.Context, nodes int, options ...string) (b Birth, err error) {
	out, err := l.command(ctx, append([]string{"up", "--nodes", strconv.Itoa(nodes), "--"}, options...)...)
	if err != nil {
		return b, err
	}
	for line, into := range map[*regexp.Regexp]*time.Duration{formedLine: &b.Formed, readyLine: &b.Ready} {
		m := line.FindStringSubmatch(out)
		if m == nil {
			return b, fmt.Errorf("kontiki lab up does not tell %s:\n%s", line, out)
		}
		if *into, err = time.ParseDuration(m[1] + "s"); err != nil {
			return b, err
		}
	}
	return b, nil
}

// Down removes all that the lab has made; it runs to its end.
func (l *Lab) Down() error {
	_, err := l.command(context.Background(), "down")
	return err
}

// Stop stops a host's node in good order.
func (l *Lab) Stop(ctx context.Context, host string) error {
	_, err := l.command(ctx, "kill", host, "--signal", "SIGTERM")
	return err
}

// Kill ends a host's node at once; what runs in its pods goes on.
func (l *Lab) Kill(ctx context.Context, host string) error {
	_, err := l.command(ctx, "kill", host)
	return err
}

// Off ends all that runs on a host at once, its pods too, as a loss of power does.
func (l *Lab) Off(ctx context.Context, host string) error {
	_, err := l.command(ctx, "off", host)
	return err
}

// Start starts a host's node again, with options of kontiki node if some are given.
func (l *Lab) Start(ctx context.Context, host string, options ...string) error {
	_, err := l.command(ctx, append([]string{"start", host, "--"}, options...)...)
	return err
}

// Kontiki runs the program on a host.
func (l *Lab) Kontiki(ctx context.Context, host string, args ...string) error {
	_, err := l.command(ctx, append([]string{"exec", host, "--", l.kontiki}, args...)...)
	return err
}

// Command is a program to be run on a host.
func (l *Lab) Command(host string, args ...string) *exec.Cmd {
	cmd := exec.Command(l.kontiki, append([]string{"lab", "--name", l.name, "exec", host, "--"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Host is what the lab knows of a host.
type Host struct {
	Name    string `json:"host"`
	Address string `json:"address"`
	Leader  string `json:"leader"` // as this host's node sees it
}

// Hosts asks all nodes.
func (l *Lab) Hosts(ctx context.Context) (hosts []Host, err error) {
	out, err := l.command(ctx, "status", "-o", "json")
	if err != nil {
		return nil, err
	}
	return hosts, json.Unmarshal([]byte(out), &hosts)
}

// Partition cuts hosts off from each other, as kontiki lab partition does.
func (l *Lab) Partition(ctx context.Context, cut string) error {
	_, err := l.command(ctx, "partition", cut)
	return err
}

// Heal ends all cuts.
func (l *Lab) Heal(ctx context.Context) error {
	_, err := l.command(ctx, "heal")
	return err
}

// Sight is what a host's node sees of its cluster.
type Sight struct {
	Leader  string `json:"leader"`
	Members []struct {
		Name   string `json:"name"`
		Health string `json:"health"`
	} `json:"members"`
}

// Sees asks a host's node what it sees.
func (l *Lab) Sees(ctx context.Context, host string) (s Sight, err error) {
	out, err := l.command(ctx, "exec", host, "--", l.kontiki, "status", "-o", "json")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(out), &s)
}

// Kubeconfig is the file of the administrator's access to the API of one host.
func (l *Lab) Kubeconfig(ctx context.Context, host string) (string, error) {
	out, err := l.command(ctx, "kubeconfig", host)
	return strings.TrimSpace(out), err
}

// Profile writes what a host's node does on CPUs for so many seconds into a file, for
// `go tool pprof`.
func (l *Lab) Profile(ctx context.Context, host string, seconds int, path string) error {
	kubeconfig, err := l.Kubeconfig(ctx, host)
	if err != nil {
		return err
	}
	socket := filepath.Join(filepath.Dir(kubeconfig), "run", "kontiki.sock")
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://node/debug/pprof/profile?seconds=%d", seconds), nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	profile, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("profile of %s: %s: %s", host, response.Status, profile)
	}
	return os.WriteFile(path, profile, 0o644)
}

// Client is the administrator's access to the API of one host and no other.
func (l *Lab) Client(ctx context.Context, host string) (*rest.Config, error) {
	file, err := l.Kubeconfig(ctx, host)
	if err != nil {
		return nil, err
	}
	return clientcmd.BuildConfigFromFlags("", file)
}

// Processes are those of a host: its node, the node's helper and what runs in pods.
func (l *Lab) Processes(host string) ([]int, error) {
	own, inPods, err := l.Apart(host)
	return append(own, inPods...), err
}

// Apart tells a host's processes that run in pods from its own.
func (l *Lab) Apart(host string) (own, inPods []int, err error) {
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); errors.Is(err, fs.ErrNotExist) {
		root = filepath.Join(root, "unified") // beside cgroup v1
	}
	err = filepath.WalkDir(filepath.Join(root, "kontiki-lab-"+l.name, host), func(path string, d fs.DirEntry, err error) error {
		if gone(err) || err == nil && d.Name() != "cgroup.procs" {
			return nil // groups come and go with pods
		}
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			if strings.Contains(path, "/kubepods/") {
				inPods = append(inPods, pid)
			} else {
				own = append(own, pid)
			}
		}
		return nil
	})
	if err == nil && len(own) == 0 {
		err = fmt.Errorf("no node runs on host %s", host)
	}
	return own, inPods, err
}

// gone: of a group that is no more, the kernel says either.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) }

// Use adds up what a host's processes use now, and have used.
func (l *Lab) Use(host string) (u proc.Total, err error) {
	pids, err := l.Processes(host)
	if err != nil {
		return u, err
	}
	return proc.TotalOf(pids)
}
