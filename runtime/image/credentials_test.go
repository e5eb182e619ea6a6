package image

import "testing"

func TestScopes(t *testing.T) {
	for _, c := range []struct {
		scope, image string
		fits         bool
	}{
		{"https://index.docker.io/v1/", "docker.io/library/web:1", true},
		{"registry.example", "registry.example/team/web:1", true},
		{"registry.example/team", "registry.example/team/web:1", true},
		{"registry.example/team/web", "registry.example/team/web:1", true},
		{"registry.example/team/we", "registry.example/team/web:1", false},
		{"registry.example/other", "registry.example/team/web:1", false},
		{"registry.example:5000", "registry.example/team/web:1", false},
		{"registry.example:5000", "registry.example:5000/web@sha256:00", true},
		{"*.example", "registry.example/web:1", true},
		{"*.example", "a.registry.example/web:1", false},
		{"https://registry.example/v2/", "registry.example/web:1", true},
	} {
		if got := (Credential{Scope: cleanScope(c.scope)}).Fits(c.image); got != c.fits {
			t.Errorf("%s fits %s: %v, want %v", c.scope, c.image, got, c.fits)
		}
	}
}
