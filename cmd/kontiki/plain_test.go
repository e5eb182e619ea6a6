package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"kontiki/node"
)

// TestOthersWordsDrawNothing: what another node says of itself neither moves the cursor of who
// looks at the cluster nor adds a line to what is said.
func TestOthersWordsDrawNothing(t *testing.T) {
	at := time.Unix(5, 0)
	evil := "ok\x1b]52;c;eA==\x07\x1b[2J\u009b1A\n- all is well\u202e\xff"
	s := node.Status{
		Name: "n1", ID: "a", Phase: "running", Cluster: "c", Leader: "a", Problems: []string{"node n2 says " + evil},
		Members: []node.Member{{ID: "a", Name: evil, Why: evil, Health: "alive", LastContact: &at}},
	}
	for name, show := range map[string]func(out *bytes.Buffer) error{
		"status":  func(out *bytes.Buffer) error { return printStatus(out, s, "") },
		"members": func(out *bytes.Buffer) error { return printMembers(out, s) },
	} {
		var out bytes.Buffer
		if err := show(&out); err != nil {
			t.Fatal(err)
		}
		if i := strings.IndexAny(out.String(), "\x1b\x07\u009b\u202e"); i >= 0 || strings.Contains(out.String(), "\n- all") || !strings.Contains(out.String(), "- all is well") {
			t.Errorf("%s: %q", name, out.String())
		}
	}
	if s.Members[0].Name != evil || s.Problems[0] != "node n2 says "+evil {
		t.Error("what was said is changed")
	}
	var out bytes.Buffer
	if err := printStatus(&out, s, "json"); err != nil || !strings.Contains(out.String(), `\u001b]52`) {
		t.Errorf("an encoding has something else: %s, %v", out.String(), err)
	}
	if p := plain(s); !p.Members[0].LastContact.Equal(at) || p.Pods != nil {
		t.Errorf("%+v", p)
	}
}
