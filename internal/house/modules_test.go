package house

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var requirement = regexp.MustCompile(`(?m)^(?:require)?\s+(\S+) (v\S+)`)

// TestModulesShareVersions holds test/clients, a module of its own, to the versions of
// this one: a dependency at another version is compiled again, with all that stands on
// it, which took minutes of a first `make test`.
func TestModulesShareVersions(t *testing.T) {
	root := filepath.Join("..", "..")
	ours, theirs := requirements(t, filepath.Join(root, "go.mod")), requirements(t, filepath.Join(root, "test/clients/go.mod"))
	shared := 0
	for module, version := range theirs {
		switch own, ok := ours[module]; {
		case !ok:
		case own != version:
			t.Errorf("%s is %s here and %s in test/clients: go get %[1]s@<the newer> in the module that is behind", module, own, version)
		default:
			shared++
		}
	}
	if shared < 50 {
		t.Errorf("only %d requirements are shared: are both files read rightly?", shared)
	}
}

func requirements(t *testing.T, path string) map[string]string {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, m := range requirement.FindAllStringSubmatch(string(text), -1) {
		found[m[1]] = m[2]
	}
	return found
}
