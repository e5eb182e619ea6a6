package shim

import (
	"os/exec"
	"strings"
	"testing"
)

// TestDependencies holds what keeps the two programs apart: the node links no
// libcontainer, and the shim, which is executed anew for each container, stays small.
func TestDependencies(t *testing.T) {
	for pkg, forbidden := range map[string]map[string]string{
		"kontiki/runtime/shim": {
			"github.com/opencontainers/": "needs cgo and re-executes the program that links it",
			"kontiki/runtime/shim/serv":  "is the other side",
		},
		"kontiki/cmd/kontiki-shim": {
			"net/http":    "is large, and the shim starts for every container",
			"k8s.io/":     "is large, and the shim starts for every container",
			"crypto/tls":  "is large, and the shim starts for every container",
			"google.gola": "protobuf and gRPC have slow package initialization",
		},
	} {
		out, err := exec.Command("go", "list", "-tags", "seccomp netgo osusergo", "-deps", pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("go list %s: %v\n%s", pkg, err, out)
		}
		for dep := range strings.Lines(string(out)) {
			for prefix, reason := range forbidden {
				if dep = strings.TrimSpace(dep); strings.HasPrefix(dep, prefix) {
					t.Errorf("%s must not depend on %s: it %s", pkg, dep, reason)
				}
			}
		}
	}
}
