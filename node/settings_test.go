package node

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func readSettings(t *testing.T, content string) (Settings, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return ReadSettings(path)
}

func TestSettingsFromAFile(t *testing.T) {
	if got, err := readSettings(t, ""); err != nil || got != DefaultSettings() {
		t.Errorf("an empty file: %+v, %v; want the defaults", got, err)
	}
	got, err := readSettings(t, "voters: 3\nserviceCIDR: 172.20.0.0/20\nclusterDomain: example.org\n")
	want := DefaultSettings()
	want.Voters, want.ServiceCIDR, want.ClusterDNS, want.ClusterDomain = 3, netip.MustParsePrefix("172.20.0.0/20"), netip.MustParseAddr("172.20.0.10"), "example.org"
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for content, word := range map[string]string{
		"voters: 4":                  "voters is 4",
		"voters: many":               "cluster.yaml",
		"clusterCIDR: 10.42.0.0":     "cluster.yaml",
		"clusterCIDR: 10.42.0.1/16":  "10.42.0.0/16 is meant",
		"serviceCIDR: 10.42.0.0/24":  "overlap",
		"serviceCIDR: 10.43.0.0/30":  "too small",
		"nodePrefixLen: 8":           "nodePrefixLen",
		"clusterDNS: 10.9.9.9":       "clusterDNS",
		"clusterDomain: Under_score": "clusterDomain",
		"clusterDmain: x":            "clusterDmain",
	} {
		if _, err := readSettings(t, content); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v, want an error that speaks of %q", content, err, word)
		}
	}
}
