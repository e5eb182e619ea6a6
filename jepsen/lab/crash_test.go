package lab

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// creating starts a process that makes the lab.
func creating(t *testing.T, cfg Config) *exec.Cmd {
	t.Helper()
	arg, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(cfg.Binary, "create", string(arg))
	cmd.Stdout = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestCreateIsKilled kills a process that makes a lab as soon as each of the things
// that it makes is there. Whatever was made by then, Down removes it, and a lab can be
// made over it.
func TestCreateIsKilled(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: a lab makes network and mount namespaces")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Name: "crash", Root: filepath.Join(t.TempDir(), "labs"), Binary: self}
	l := &Lab{cfg: cfg}
	h3 := &Host{Name: "n3", lab: l}
	stages := map[string]func() bool{
		"the folder":         func() bool { return exists(l.dir()) },
		"the secret":         func() bool { return exists(l.secretPath()) },
		"the bridge":         func() bool { return exists("/sys/class/net/" + l.bridge()) },
		"the pins":           func() bool { return exists(l.pins()) },
		"the first cable":    func() bool { return exists("/sys/class/net/" + (&Host{Name: "n1", lab: l}).port()) },
		"the last namespace": func() bool { return exists(h3.mntnsPin()) },
		"the last cable":     func() bool { return exists("/sys/class/net/" + h3.port()) },
		"the record":         func() bool { return exists(l.recordPath()) },
	}
	t.Cleanup(func() {
		if err := Down(cfg); err != nil {
			t.Error(err)
		}
	})
	for what, made := range stages {
		t.Run(what, func(t *testing.T) {
			if err := Down(cfg); err != nil {
				t.Fatal(err)
			}
			kill := func() {
				cmd := creating(t, cfg)
				defer cmd.Wait()
				waitFor(t, what, made)
				if err := cmd.Process.Kill(); err != nil && !strings.Contains(err.Error(), "finished") {
					t.Fatal(err)
				}
			}
			kill()
			if err := Down(cfg); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, l)
			kill()
			if !exists(l.recordPath()) { // else it was killed too late, and stands
				again, err := Create(cfg, 1)
				if err != nil {
					t.Fatalf("make a lab over what a crash left: %v", err)
				}
				startAll(t, again.Hosts()[0])
			}
		})
	}
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }

// TestLabsSideBySide makes labs at once, in processes of their own: each gets a
// subnet for itself, and removing one leaves the others as they are.
func TestLabsSideBySide(t *testing.T) {
	first := testLab(t, 1)
	root, binary := first.cfg.Root, first.cfg.Binary
	var making []*exec.Cmd
	var labs []Config
	for _, name := range []string{"side1", "side2", "side3"} {
		cfg := Config{Name: name, Root: root, Binary: binary}
		if err := Down(cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := Down(cfg); err != nil {
				t.Error(err)
			}
		})
		labs, making = append(labs, cfg), append(making, creating(t, cfg))
	}
	seen := map[string]string{first.subnet.String(): "labtest"}
	for i, cmd := range making {
		if err := cmd.Wait(); err != nil {
			t.Fatalf("make lab %s: %v", labs[i].Name, err)
		}
		l, err := Open(labs[i])
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := seen[l.subnet.String()]; taken {
			t.Errorf("labs %s and %s share %s", other, labs[i].Name, l.subnet)
		}
		seen[l.subnet.String()] = labs[i].Name
		startAll(t, l.Hosts()[0])
	}
	for i, cfg := range labs {
		if err := Down(cfg); err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, &Lab{cfg: cfg})
		for _, cfg := range labs[i+1:] {
			l, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := dial(t, l.Hosts()[1], "n1"), "hello from "+l.Hosts()[0].DataDir(); got != want {
				t.Errorf("after %s was removed, n2 to n1 in %s: %q, want %q", labs[i].Name, cfg.Name, got, want)
			}
		}
	}
	startAll(t, first.Hosts()[0])
}
