package house

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// rooms says what of this module each room may import besides itself. The reason
// is shown when somebody breaks the rule. See the table in docs/ARCHITECTURE.md.
var rooms = map[string]struct {
	may    []string
	reason string
}{
	"raftstore":   {nil, "the store is the ground: it can be proven alone only if it stands alone"},
	"gossip":      {nil, "the ring must form and heal when nothing else works"},
	"pki":         {nil, "keys must not depend on what they protect"},
	"apiserver":   {[]string{"raftstore", "pki"}, "the API is a view of the store; what nodes do reaches it through interfaces that it declares"},
	"controllers": {nil, "controllers decide and write through the API, as any client would"},
	"runtime":     {nil, "the agent speaks to an API client, never to the store, so that nodes without a replica can run it"},
	"overlay":     {[]string{"gossip", "internal"}, "the data plane takes leases from the ring (the type only) and objects from an API client"},
	"node":        {[]string{"raftstore", "gossip", "pki", "apiserver", "controllers", "runtime", "overlay", "internal"}, "node composes the rooms; nothing else does"},
	"jepsen":      {[]string{"internal"}, "the proof drives real binaries; if it shared their code it would share their errors"},
	"bench":       {[]string{"raftstore"}, "a bench measures what it imports, and processes of the real program"},
	"examples":    {nil, "examples are what a user would write"},
	"internal":    {[]string{"pki"}, "mechanism has no meaning of its own in the domain"},
}

// forAll may be imported by every room.
var forAll = map[string]string{
	"kontiki/internal/meter": "how a room says what it counts is no part of what it does",
}

// onlyImportedBy names packages that few may import.
var onlyImportedBy = map[string]struct {
	by     []string
	reason string
}{
	"kontiki/node":                {[]string{"cmd"}, "only cmd starts a node"},
	"kontiki/runtime/shim/server": {[]string{"cmd/kontiki-shim", "runtime/shim"}, "libcontainer is linked by the shim alone: every container start re-executes its whole program"},
}

// bannedEverywhere names import paths that the product must not use.
var banned = map[string]string{
	"k8s.io/kubernetes":                      "it is not made to be imported; the rooms hold what is needed of it",
	"go.etcd.io/etcd/client/v3":              "state lives in raftstore; no etcd client is ever opened",
	"k8s.io/apiserver/pkg/storage/etcd3":     "state lives in raftstore; no etcd client is ever opened",
	"k8s.io/apiserver/pkg/server/options":    "its EtcdOptions open an etcd client; configure the server as apiserver/chain.go does",
	"github.com/opencontainers/runc":         "only the shim links libcontainer",
	"github.com/hashicorp/consul/api":        "membership is gossip's",
	"log":                                    "structured logs (log/slog) are passed in",
	"k8s.io/klog/v2":                         "structured logs (log/slog) are passed in",
	"github.com/coreos/go-iptables/iptables": "the overlay speaks netlink and nftables itself",
}

// allowed are the exceptions to banned, each with its reason.
var allowed = map[string]map[string]string{
	"cmd/kontiki-shim":    {"github.com/opencontainers/runc": "the shim"},
	"runtime/shim/server": {"github.com/opencontainers/runc": "the shim"},
	"node":                {"k8s.io/klog/v2": "klog is what the Kubernetes libraries log with; its output is routed into slog here"},
	"cmd/kontiki":         {"k8s.io/klog/v2": "kubectl's flags reach klog"},
	"bench":               {"go.etcd.io/etcd/client/v3": "the peer that the store is measured beside"},
	"raftstore":           {"log": "raft's libraries ask for a standard logger"},
	"gossip":              {"log": "memberlist asks for a standard logger"},
	"controllers":         {"k8s.io/klog/v2": "Toleration.ToleratesTaint takes a klog logger; it is given an empty one"},
}

type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Doc          string
	Name         string
	GoFiles      []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Doc,Name,GoFiles", "-tags", "seccomp", "kontiki/...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// within tells whether path is folder or below it.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}

func TestImportDirection(t *testing.T) {
	for _, p := range packages(t) {
		rel := strings.TrimPrefix(p.ImportPath, "kontiki/")
		room, _, _ := strings.Cut(rel, "/")
		for _, imp := range p.Imports {
			for path, reason := range banned {
				// A path of the standard library bans one package, another's all below it.
				if (imp == path || strings.Contains(path, ".") && within(imp, path)) && !exempt(rel, path) {
					t.Errorf("%s imports %s: %s", rel, imp, reason)
				}
			}
			target, ok := strings.CutPrefix(imp, "kontiki/")
			if !ok {
				continue
			}
			if rule, ok := onlyImportedBy[imp]; ok && !slices.ContainsFunc(rule.by, func(by string) bool { return within(rel, by) }) {
				t.Errorf("%s imports %s: %s", rel, imp, rule.reason)
			}
			targetRoom, _, _ := strings.Cut(target, "/")
			if room == "cmd" || targetRoom == room || forAll[imp] != "" {
				continue
			}
			rule, known := rooms[room]
			if !known {
				t.Errorf("%s is in no room: top-level folders are the architecture; give it a row in this table or a place in a room", rel)
				continue
			}
			if !slices.Contains(rule.may, targetRoom) {
				t.Errorf("%s imports %s: %s", rel, imp, rule.reason)
			}
		}
	}
}

func exempt(rel, path string) bool {
	for folder, paths := range allowed {
		if _, ok := paths[path]; ok && within(rel, folder) {
			return true
		}
	}
	return false
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue // tests alone
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: its package comment begins with %q, want %q", p.ImportPath, firstWords(p.Doc), want)
		}
	}
}

func firstWords(s string) string { return s[:min(len(s), 40)] }
