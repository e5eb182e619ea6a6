package main

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestImagePull pulls by a mirror that registries.yaml names, and lists what came.
func TestImagePull(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://")+"/team/web:v1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, empty.Image); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	image := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := rootCommand()
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append([]string{"image", "--data-dir", dir}, args...))
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	mirrors := fmt.Appendf(nil, "mirrors: {registry.invalid: {endpoint: [%q]}}\n", server.URL)
	if err := os.WriteFile(filepath.Join(dir, "registries.yaml"), mirrors, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := image("pull", "registry.invalid/team/web:v1"); err != nil || !strings.HasPrefix(out, "pulled registry.invalid/team/web:v1 (sha256:") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := image("ls"); err != nil || !strings.Contains(out, "registry.invalid/team/web:v1") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := image("pull", "registry.invalid/team/none:v1"); err == nil || !strings.Contains(err.Error(), `failed to pull image "registry.invalid/team/none:v1"`) {
		t.Errorf("what is not there: %v: %s", err, out)
	}
}
