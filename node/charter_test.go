package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kontiki/pki"
	"kontiki/raftstore/raftstoretest"
)

func newAdmission(t *testing.T, founders ...string) (clusterID string, admission []byte) {
	t.Helper()
	clusterID = pki.NewID()
	requests := map[string][]byte{}
	for _, id := range founders {
		requests[id] = nil
	}
	grants, err := founder{t.TempDir(), time.Now}.Found(clusterID, DefaultSettings().encode(), requests)
	if err != nil {
		t.Fatal(err)
	}
	return clusterID, grants[founders[0]]
}

func TestCharterSurvivesTheDisk(t *testing.T) {
	a, b := pki.NewID(), pki.NewID()
	clusterID, admission := newAdmission(t, a, b)
	dir := t.TempDir()
	if _, err := loadCharter(dir); !errors.Is(err, errBlank) {
		t.Fatalf("a blank directory: %v, want errBlank", err)
	}
	if _, err := enter(dir, admission); err != nil {
		t.Fatal(err)
	}
	if _, err := enter(dir, admission); err != nil {
		t.Fatalf("entering twice: %v", err)
	}
	c, err := loadCharter(dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.ClusterID != clusterID || len(c.Founders) != 1 || len(c.Nonvoters) != 1 || c.Settings != DefaultSettings() {
		t.Errorf("the charter came back as %+v", c)
	}
	if c.trust.ClusterID() != clusterID {
		t.Errorf("the keys are of cluster %s, want %s", c.trust.ClusterID(), clusterID)
	}
}

// TestMissingReplica: a node that had a replica does not begin without one, and one that has none
// yet does.
func TestMissingReplica(t *testing.T) {
	_, admission := newAdmission(t, pki.NewID())
	dir := t.TempDir()
	c, err := enter(dir, admission)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.checkReplica(dir); err != nil {
		t.Errorf("a node that has just entered: %v", err)
	}
	if err := c.begin(dir); err != nil {
		t.Fatal(err)
	}
	if c, err = loadCharter(dir); err != nil {
		t.Fatal(err)
	}
	if err := c.checkReplica(dir); err == nil || !strings.Contains(err.Error(), raftDir(dir, "")) || !strings.Contains(err.Error(), "reset --membership") {
		t.Errorf("its replica has gone: %v", err)
	}
	if c.joiner().Begun {
		t.Error("a node that joins is told that it has a replica")
	}
	network := raftstoretest.NewNetwork()
	if err := openReplica(t, network, dir, pki.NewID()).Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.checkReplica(dir); err != nil {
		t.Errorf("its replica is there: %v", err)
	}
}

// TestCrashWhileEntering takes away, one by one, the files that enter writes
// last: what is left is a blank node, or one that says what is missing.
func TestCrashWhileEntering(t *testing.T) {
	_, admission := newAdmission(t, pki.NewID())
	for _, test := range []struct {
		missing []string
		blank   bool
	}{
		{[]string{"pki/trust.json"}, true},
		{[]string{"pki/trust.json", "pki/kek"}, true},
		{[]string{"cluster.json"}, false}, // no crash does this
		{[]string{"pki/kek"}, false},
	} {
		dir := t.TempDir()
		if _, err := enter(dir, admission); err != nil {
			t.Fatal(err)
		}
		for _, name := range test.missing {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := loadCharter(dir)
		if test.blank != errors.Is(err, errBlank) {
			t.Errorf("without %v: %v", test.missing, err)
		}
		if !test.blank && (err == nil || !strings.Contains(err.Error(), "is missing")) {
			t.Errorf("without %v: %v, want an error that says what is missing", test.missing, err)
		}
		if _, err := enter(dir, admission); err != nil {
			t.Errorf("entering again without %v: %v", test.missing, err)
		}
	}
}

func TestBadSettingsAreRefused(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"overlap":               func(c *Config) { c.Settings.ServiceCIDR = c.Settings.ClusterCIDR },
		"nodePrefixLen":         func(c *Config) { c.Settings.NodePrefixLen = 8 },
		"clusterDNS":            func(c *Config) { c.Settings.ClusterDNS = c.Settings.ClusterCIDR.Addr() },
		"cannot name a node":    func(c *Config) { c.Name = "Not_A_Name" },
		"give it with --secret": func(c *Config) { c.SecretFile, c.Join = "", []string{"10.0.0.1"} },
		"data directory":        func(c *Config) { c.DataDir = "" },
	} {
		c := Config{DataDir: t.TempDir(), Name: "n1", SecretFile: "secret", Settings: DefaultSettings()}
		change(&c)
		if _, err := c.withDefaults(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that speaks of %q", err, want)
		}
	}
}

func TestOneProcessADirectory(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); err == nil || !strings.Contains(err.Error(), "another kontiki") {
		t.Fatalf("a second lock: %v", err)
	}
	unlock()
	unlock, err = lockDir(dir)
	if err != nil {
		t.Fatalf("after unlock: %v", err)
	}
	unlock()
}

// TestNothingIsDoneWhereNoNodeWas: a mistyped directory is told, and not made.
func TestNothingIsDoneWhereNoNodeWas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mistyped")
	_, recovered := Recover(dir, quiet, time.Now, func(RecoveryPlan) error { return nil })
	for what, err := range map[string]error{
		"reset of promises": ResetFormation(dir), "reset of a membership": ResetMembership(dir, resetItSo), "recovery": recovered,
	} {
		if err == nil || !strings.Contains(err.Error(), "is --data-dir right?") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory: %v", err)
	}
}
