package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Credential is how to log in where its scope fits.
type Credential struct {
	Scope string // host[:port][/path], each label of the host may hold wildcards
	Auth  authn.AuthConfig
}

// dockerConfig is docker's configuration file.
type dockerConfig struct {
	Auths map[string]dockerAuth `json:"auths"`
}

// dockerAuth is an entry of it.
type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // base64 of username:password
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// ParseDockerConfig reads what docker keeps in config.json, in the order of scopes.
func ParseDockerConfig(data []byte) ([]Credential, error) {
	var file dockerConfig
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	return credentialsOf(file.Auths)
}

// ParseDockerCfg reads what docker kept in its older file, .dockercfg.
func ParseDockerCfg(data []byte) ([]Credential, error) {
	var auths map[string]dockerAuth
	if err := json.Unmarshal(data, &auths); err != nil {
		return nil, err
	}
	return credentialsOf(auths)
}

// FileCredentials reads docker's configuration file; a missing one holds none.
func FileCredentials(path string) ([]Credential, error) {
	data, err := os.ReadFile(path)
	if path == "" || errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := ParseDockerConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

func credentialsOf(auths map[string]dockerAuth) ([]Credential, error) {
	var list []Credential
	for scope, a := range auths {
		if a.Auth != "" && a.Username == "" {
			plain, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				return nil, fmt.Errorf("auth of %s is not base64", scope)
			}
			a.Username, a.Password, _ = strings.Cut(string(plain), ":")
		}
		list = append(list, Credential{cleanScope(scope), authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}})
	}
	slices.SortFunc(list, func(a, b Credential) int { return strings.Compare(a.Scope, b.Scope) })
	return list, nil
}

// cleanScope takes from a scope what docker and older tools write around it.
func cleanScope(scope string) string {
	scope = strings.TrimPrefix(strings.TrimPrefix(scope, "https://"), "http://")
	host, rest, _ := strings.Cut(strings.Trim(scope, "/"), "/")
	if host == "index.docker.io" {
		host = "docker.io"
	}
	rest = strings.TrimPrefix(strings.TrimPrefix(rest+"/", "v1/"), "v2/")
	return strings.Trim(host+"/"+rest, "/")
}

// Fits tells whether an image, by its normalized name, lies below the scope. A wildcard stands for
// part of one label of the host, as upstream has it.
func (c Credential) Fits(image string) bool {
	host, below, _ := strings.Cut(c.Scope, "/")
	imageHost, rest, _ := strings.Cut(image, "/")
	want, got := strings.Split(host, "."), strings.Split(imageHost, ".")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], got[i]); err != nil || !ok {
			return false
		}
	}
	return below == "" || rest == below || strings.HasPrefix(rest, below+"/") || strings.HasPrefix(rest, below+":") || strings.HasPrefix(rest, below+"@")
}

// PullAs is Pull with the first of the credentials that is let in: of those that fit the image the
// most specific first, else in the order given.
func (s *Store) PullAs(ctx context.Context, ref string, all []Credential, progress Progress) (img Image, err error) {
	full, err := Normalize(ref)
	if err != nil {
		return Image{}, err
	}
	fit := slices.DeleteFunc(slices.Clone(all), func(c Credential) bool { return !c.Fits(full) })
	slices.SortStableFunc(fit, func(a, b Credential) int { return len(b.Scope) - len(a.Scope) })
	if len(fit) == 0 {
		return s.Pull(ctx, ref, nil, progress)
	}
	for _, c := range fit {
		if img, err = s.Pull(ctx, ref, authn.FromConfig(c.Auth), progress); err == nil || ctx.Err() != nil {
			return img, err
		}
	}
	return img, err
}
