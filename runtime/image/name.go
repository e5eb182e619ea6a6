package image

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Normalize gives an image name its full form, as upstream does: registry
// docker.io, folder library, tag latest, where they are left out.
func Normalize(ref string) (string, error) {
	parsed, err := parse(ref)
	if err != nil {
		return "", err
	}
	sep := ":"
	if _, ok := parsed.(name.Digest); ok {
		sep = "@"
	}
	return repositoryName(parsed.Context()) + sep + parsed.Identifier(), nil
}

func parse(ref string) (name.Reference, error) {
	parsed, err := name.ParseReference(ref, name.WeakValidation)
	if err != nil || ref != strings.TrimSpace(ref) {
		return nil, fmt.Errorf("couldn't parse image name %q: %w", ref, ErrInvalidName)
	}
	return parsed, nil
}

func repositoryName(r name.Repository) string {
	registry := r.RegistryStr()
	if registry == name.DefaultRegistry {
		registry = "docker.io"
	}
	return registry + "/" + r.RepositoryStr()
}

// repository is a normalized reference without its tag or digest.
func repository(ref string) string {
	if at := strings.IndexByte(ref, '@'); at >= 0 {
		return ref[:at]
	}
	if colon := strings.LastIndexByte(ref, ':'); colon > strings.LastIndexByte(ref, '/') {
		return ref[:colon]
	}
	return ref
}

// DefaultPullPolicy is upstream's: Always for :latest, IfNotPresent otherwise.
func DefaultPullPolicy(ref string) string {
	if full, err := Normalize(ref); err == nil && strings.HasSuffix(full, ":latest") {
		return "Always"
	}
	return "IfNotPresent"
}

func hostPlatform() v1.Platform {
	return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
}
