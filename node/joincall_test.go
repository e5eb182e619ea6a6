package node

import (
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"kontiki/pki"
)

// TestJoinCall has a node ask to join and looks at what both ends make of it. What a node
// is told must come before anything is changed for it.
func TestJoinCall(t *testing.T) {
	c := charter{ClusterID: pki.NewID(), Settings: DefaultSettings()}
	c.Settings.ClusterDomain = "example.org"
	good := joinRequest{NodeID: pki.NewID(), Name: "n4", ClusterID: c.ClusterID}
	elsewhere := good
	elsewhere.ClusterID = pki.NewID()
	unnamed := good
	unnamed.Name = "N 4"
	fitting := func(s Settings) error {
		if s != c.Settings {
			t.Errorf("the node was told %+v, want the cluster's settings", s)
		}
		return nil
	}
	for name, tc := range map[string]struct {
		request joinRequest
		fits    func(Settings) error
		letIn   error
		called  bool
		want    string // part of both ends' errors; empty: let in
	}{
		"let in":               {good, fitting, nil, true, ""},
		"refused":              {good, fitting, errors.New("the name is taken"), true, "the name is taken"},
		"settings do not suit": {good, func(Settings) error { return errors.New("clusterCIDR overlaps eth0's network") }, nil, false, "clusterCIDR overlaps eth0's network"},
		"another cluster":      {elsewhere, fitting, nil, false, "this is cluster " + c.ClusterID},
		"no name":              {unnamed, fitting, nil, false, "cannot name a node"},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := net.Pipe()
			called := false
			answered := make(chan error, 1)
			go func() {
				request, err := answerToJoin(there, c, func(joinRequest) ([]byte, error) { called = true; return []byte(`"keys"`), tc.letIn })
				if request != tc.request {
					t.Errorf("the member read %+v, want %+v", request, tc.request)
				}
				answered <- err
			}()
			admission, err := askToJoin(here, tc.request, tc.fits)
			far := <-answered
			if called != tc.called {
				t.Errorf("made a member: %v, want %v", called, tc.called)
			}
			if tc.want == "" {
				if err != nil || far != nil || string(admission) != `"keys"` {
					t.Errorf("%s, %v; the member: %v", admission, err, far)
				}
				return
			}
			for end, err := range map[string]error{"the node": err, "the member": far} {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%s says %v, want %q", end, err, tc.want)
				}
			}
		})
	}
}

// TestJoinCallCutOff: a node that goes before it has taken the settings is no member.
func TestJoinCallCutOff(t *testing.T) {
	c := charter{ClusterID: pki.NewID(), Settings: DefaultSettings()}
	here, there := net.Pipe()
	answered := make(chan error, 1)
	go func() {
		_, err := answerToJoin(there, c, func(joinRequest) ([]byte, error) {
			t.Error("the node was made a member")
			return nil, nil
		})
		answered <- err
	}()
	here.SetDeadline(time.Now().Add(10 * time.Second))
	if err := json.NewEncoder(here).Encode(joinRequest{NodeID: pki.NewID(), Name: "n4", ClusterID: c.ClusterID}); err != nil {
		t.Fatal(err)
	}
	var offer joinOffer
	if err := json.NewDecoder(here).Decode(&offer); err != nil || offer.Settings != c.Settings {
		t.Fatalf("the offer is %+v, %v", offer, err)
	}
	here.Close()
	if err := <-answered; err == nil {
		t.Error("the member did not notice")
	}
}
