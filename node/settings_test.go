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
	two, err := readSettings(t, "secondaryServiceCIDR: fd00:10:43::/112\n")
	want = DefaultSettings()
	want.SecondaryServiceCIDR = netip.MustParsePrefix("fd00:10:43::/112")
	if err != nil || two != want {
		t.Errorf("two ranges: got %+v, %v; want %+v", two, err, want)
	}
	// Clusters of earlier versions, and of members that do not know the second range, have
	// these bytes.
	if got := string(DefaultSettings().encode()); strings.Contains(got, "secondary") {
		t.Errorf("settings without a second range say %s", got)
	}
	for content, word := range map[string]string{
		"voters: 4":                             "voters is 4",
		"voters: many":                          "cluster.yaml",
		"clusterCIDR: 10.42.0.0":                "cluster.yaml",
		"clusterCIDR: 10.42.0.1/16":             "10.42.0.0/16 is meant",
		"serviceCIDR: 10.42.0.0/24":             "overlap",
		"serviceCIDR: 10.43.0.0/30":             "too small",
		"nodePrefixLen: 8":                      "choose 17 to 30",
		"nodePrefixLen: 31":                     "too small a subnet",
		"clusterCIDR: fd00:42::/48":             "IPv4",
		"clusterDNS: 10.9.9.9":                  "clusterDNS",
		"secondaryServiceCIDR: 10.99.0.0/16":    "of one address family",
		"secondaryServiceCIDR: fd00:43::1/112":  "fd00:43::/112 is meant",
		"secondaryServiceCIDR: fd00:43::/48":    "too large",
		"secondaryServiceCIDR: fd00:43::f0/125": "too small",
		"clusterDomain: Under_score":            "clusterDomain",
		"clusterDmain: x":                       "clusterDmain",
		"clusterCIDR: 10.0.0.0/8\nserviceCIDR: 172.20.0.0/16\nnodePrefixLen: 30": "choose 9 to 28",
	} {
		if _, err := readSettings(t, content); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v, want an error that speaks of %q", content, err, word)
		}
	}
}

func TestSettingsAreFixed(t *testing.T) {
	formed := DefaultSettings()
	for _, tc := range []struct {
		given  Given
		change func(*Settings)
		want   []string // words of the refusal
	}{
		{Given{All: true}, func(*Settings) {}, nil},
		{Given{All: true}, func(s *Settings) { s.PodNetwork = "vxlan" }, nil},
		{Given{}, func(s *Settings) { s.ClusterCIDR = netip.MustParsePrefix("10.50.0.0/16") }, nil},
		{Given{All: true}, func(s *Settings) { s.ClusterCIDR, s.Voters = netip.MustParsePrefix("10.50.0.0/16"), 3 }, []string{"clusterCIDR is 10.42.0.0/16", "10.50.0.0/16", "voters is 5", "fixed when it is founded"}},
		{Given{PodNetwork: true}, func(s *Settings) { s.PodNetwork, s.Voters = "host-gw", 3 }, []string{"podNetwork is vxlan", "host-gw"}},
	} {
		c := Config{Settings: formed, Given: tc.given}
		tc.change(&c.Settings)
		err := c.heldTo(formed)
		if (err == nil) != (tc.want == nil) {
			t.Errorf("%+v: %v, want it to say %q", c, err, tc.want)
		}
		for _, word := range tc.want {
			if err != nil && !strings.Contains(err.Error(), word) {
				t.Errorf("%v does not say %q", err, word)
			}
		}
	}
}

func TestSettingsThatClashWithTheMachine(t *testing.T) {
	s := DefaultSettings()
	for prefix, want := range map[string]string{
		"192.168.7.9/24": "", "10.41.0.1/16": "", "172.17.0.1/16": "",
		"10.42.7.9/24":    "clusterCIDR 10.42.0.0/16 overlaps 10.42.7.0/24, the network of this machine's eth0",
		"10.43.255.10/32": "serviceCIDR 10.43.0.0/16 overlaps 10.43.255.10/32",
		"10.1.2.3/8":      "clusterCIDR 10.42.0.0/16 overlaps 10.0.0.0/8",
	} {
		err := s.clash([]network{{"eth0", netip.MustParsePrefix(prefix)}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", prefix, err, want)
		}
	}
}
