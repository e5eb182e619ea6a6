package image

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"sigs.k8s.io/yaml"
)

// Registries says how this node reaches registries. Its file has the shape that
// k3s made known:
//
//	mirrors:
//	  docker.io:                 # or "*", for all without an entry of their own
//	    endpoint: ["https://mirror.example:5000"]
//	configs:
//	  mirror.example:5000:
//	    auth: {username: reader, password: secret}
//	    tls: {ca_file: /etc/ssl/mirror.pem}
type Registries struct {
	Mirrors map[string]Mirror         `json:"mirrors,omitempty"`
	Configs map[string]RegistryConfig `json:"configs,omitempty"`
}

// Mirror is asked, in order, before the registry whose name it stands below.
type Mirror struct {
	Endpoints []string `json:"endpoint"` // http:// or https://, host and port
}

// RegistryConfig is how one host is spoken to.
type RegistryConfig struct {
	Auth *RegistryAuth `json:"auth,omitempty"`
	TLS  *RegistryTLS  `json:"tls,omitempty"`
}

// RegistryAuth is who the node is there. A pod's own credentials come first.
type RegistryAuth struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	Auth          string `json:"auth,omitempty"` // base64 of username:password
	IdentityToken string `json:"identity_token,omitempty"`
}

// RegistryTLS names files; what it leaves out is the system's.
type RegistryTLS struct {
	CAFile             string `json:"ca_file,omitempty"`
	CertFile           string `json:"cert_file,omitempty"`
	KeyFile            string `json:"key_file,omitempty"`
	InsecureSkipVerify bool   `json:"insecure_skip_verify,omitempty"`
}

// ReadRegistries reads and checks such a file.
func ReadRegistries(path string) (Registries, error) {
	var r Registries
	b, err := os.ReadFile(path)
	if err != nil {
		return r, fmt.Errorf("read how registries are reached: %w", err)
	}
	if err := yaml.UnmarshalStrict(b, &r); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	for registry, m := range r.Mirrors {
		for _, e := range m.Endpoints {
			if _, _, err := endpoint(e); err != nil {
				return r, fmt.Errorf("%s: mirror of %s: %w", path, registry, err)
			}
		}
	}
	for host, c := range r.Configs {
		if _, err := c.transport(); err != nil {
			return r, fmt.Errorf("%s: %s: %w", path, host, err)
		}
	}
	return r, nil
}

// NodeRegistries reads the file that is named, else registries.yaml of a node's data directory if
// there is one.
func NodeRegistries(dataDir, file string) (Registries, error) {
	if file != "" {
		return ReadRegistries(file)
	}
	r, err := ReadRegistries(filepath.Join(dataDir, "registries.yaml"))
	if errors.Is(err, os.ErrNotExist) {
		return Registries{}, nil
	}
	return r, err
}

// endpoint splits a mirror's URL.
func endpoint(text string) (host string, plain bool, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", false, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" && strings.Trim(u.Path, "/") != "v2" {
		return "", false, fmt.Errorf("endpoint %q is not http:// or https://, a host and perhaps a port", text)
	}
	return u.Host, u.Scheme == "http", nil
}

// source is one place to pull from.
type source struct {
	ref     name.Reference
	options []remote.Option
	close   func()
	mirror  bool
}

// sources are the mirrors of a reference, then its own registry. auth is the
// pod's, for the registry alone: no mirror is shown it.
func (r Registries) sources(ref name.Reference, auth authn.Authenticator) ([]source, error) {
	registry := ref.Context().RegistryStr()
	if registry == name.DefaultRegistry {
		registry = "docker.io"
	}
	m, ok := r.Mirrors[registry]
	if !ok {
		m = r.Mirrors["*"]
	}
	var list []source
	for _, e := range m.Endpoints {
		host, plain, err := endpoint(e)
		if err != nil {
			return nil, err
		}
		there, err := elsewhere(ref, host, plain)
		if err != nil {
			return nil, fmt.Errorf("mirror %s: %w", e, err)
		}
		s, err := r.source(there, host, nil)
		if err != nil {
			return nil, fmt.Errorf("mirror %s: %w", e, err)
		}
		s.mirror = true
		list = append(list, s)
	}
	own, err := r.source(ref, registry, auth)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", registry, err)
	}
	return append(list, own), nil
}

func (r Registries) source(ref name.Reference, host string, auth authn.Authenticator) (source, error) {
	c := r.Configs[host]
	t, err := c.transport()
	if err != nil {
		return source{}, err
	}
	if auth == nil {
		auth = authn.Anonymous
		if c.Auth != nil {
			auth = authn.FromConfig(authn.AuthConfig{Username: c.Auth.Username, Password: c.Auth.Password, Auth: c.Auth.Auth, IdentityToken: c.Auth.IdentityToken})
		}
	}
	return source{ref: ref, options: []remote.Option{remote.WithTransport(t), remote.WithAuth(auth)}, close: t.CloseIdleConnections}, nil
}

// elsewhere is the same repository and tag or digest at another host.
func elsewhere(ref name.Reference, host string, plain bool) (name.Reference, error) {
	var opts []name.Option
	if plain {
		opts = append(opts, name.Insecure)
	}
	registry, err := name.NewRegistry(host, opts...)
	if err != nil {
		return nil, err
	}
	repository := registry.Repo(strings.Split(ref.Context().RepositoryStr(), "/")...)
	if _, ok := ref.(name.Digest); ok {
		return repository.Digest(ref.Identifier()), nil
	}
	return repository.Tag(ref.Identifier()), nil
}

// transport is one of its own, whose connections end with the pull.
func (c RegistryConfig) transport() (*http.Transport, error) {
	t := remote.DefaultTransport.(*http.Transport).Clone()
	if c.TLS == nil {
		return t, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.TLS.InsecureSkipVerify}
	if c.TLS.CAFile != "" {
		pem, err := os.ReadFile(c.TLS.CAFile)
		if err != nil {
			return nil, err
		}
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New(c.TLS.CAFile + " holds no certificate")
		}
	}
	if c.TLS.CertFile != "" || c.TLS.KeyFile != "" {
		cert, err := tls.LoadX509KeyPair(c.TLS.CertFile, c.TLS.KeyFile)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{cert}
	}
	t.TLSClientConfig = config
	return t, nil
}
