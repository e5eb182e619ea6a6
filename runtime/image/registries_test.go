package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
)

func TestWherePullsGo(t *testing.T) {
	r := Registries{Mirrors: map[string]Mirror{
		"docker.io": {Endpoints: []string{"https://mirror.example:5000", "http://10.0.0.1/v2"}},
		"*":         {Endpoints: []string{"https://all.example"}},
		"own.test":  {},
	}}
	for ref, want := range map[string][]string{
		"web": {"https mirror.example:5000/library/web:latest", "http 10.0.0.1/library/web:latest", "https index.docker.io/library/web:latest"},
		"ghcr.io/a/b/c@sha256:" + strings.Repeat("a", 64): {"https all.example/a/b/c@sha256:" + strings.Repeat("a", 64), "https ghcr.io/a/b/c@sha256:" + strings.Repeat("a", 64)},
		"own.test/x:1": {"https own.test/x:1"},
	} {
		parsed, err := parse(ref)
		if err != nil {
			t.Fatal(err)
		}
		list, err := r.sources(parsed, &authn.Basic{Username: "pod"})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range list {
			got = append(got, s.ref.Context().Scheme()+" "+s.ref.Name())
		}
		if strings.Join(got, ", ") != strings.Join(want, ", ") {
			t.Errorf("%s: %v, want %v", ref, got, want)
		}
	}
}

func TestReadRegistries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registries.yaml")
	for body, want := range map[string]string{
		"mirrors: {docker.io: {endpoint: ['https://m.example']}}\nconfigs: {m.example: {auth: {username: u, password: p}}}": "",
		"mirrors: {docker.io: {endpoint: [m.example]}}":                                                                     "is not http:// or https://",
		"mirrors: {docker.io: {endpoints: []}}":                                                                             "unknown field",
		"configs: {m.example: {tls: {ca_file: /none/here}}}":                                                                "/none/here",
	} {
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRegistries(path); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
}
