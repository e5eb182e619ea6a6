package agent_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/crypto/bcrypt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/runtime/image"
	"kontiki/runtime/shim/shimtest"
)

// realRegistry is Debian's docker-registry with TLS and basic authentication.
type realRegistry struct {
	t      *testing.T
	host   string // 127.0.0.1:port
	blobs  string // directory of its blobs
	caFile string
	client []remote.Option

	transport *http.Transport // trusts its certificate
}

const registryUser, registryPassword = "reader", "open sesame"

// startRegistry runs the program that test/programs has fetched.
func startRegistry(t *testing.T) *realRegistry {
	t.Helper()
	program, err := filepath.Abs("../../bin/test/docker-registry")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("needs docker-registry of Debian in bin/test, where test/programs puts it")
	}
	dir := t.TempDir()
	r := &realRegistry{t: t, caFile: filepath.Join(dir, "cert.pem"), blobs: filepath.Join(dir, "data", "docker", "registry", "v2", "blobs", "sha256")}
	pool := r.certify(dir)
	hash, err := bcrypt.GenerateFromPassword([]byte(registryPassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: '127.0.0.1:0', tls: {certificate: %s, key: %s}}\nauth: {htpasswd: {realm: test, path: %s}}\n",
		filepath.Join(dir, "data"), r.caFile, filepath.Join(dir, "key.pem"), filepath.Join(dir, "htpasswd"))
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "htpasswd"), []byte(registryUser+":"+string(hash)+"\n"), 0o600), os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", filepath.Join(dir, "config.yml"))
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	})
	address := make(chan string, 1)
	go func() {
		defer close(read)
		listening := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if m := listening.FindStringSubmatch(sc.Text()); m != nil {
				address <- m[1]
			}
		}
	}()
	select {
	case r.host = <-address:
	case <-time.After(shimtest.Patience):
		t.Fatal("waited for docker-registry to listen")
	}
	r.transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(r.transport.CloseIdleConnections)
	r.client = []remote.Option{remote.WithTransport(r.transport), remote.WithAuth(&authn.Basic{Username: registryUser, Password: registryPassword})}
	return r
}

// certify makes the certificate that the registry shows, its own authority.
func (r *realRegistry) certify(dir string) *x509.CertPool {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "registry"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		r.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		r.t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(os.WriteFile(r.caFile, cert, 0o600), os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600)); err != nil {
		r.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}

// push makes an image of layers. A layer is the members of a tar: see body.
func (r *realRegistry) push(repository string, layers ...[]tar.Header) v1.Image {
	r.t.Helper()
	img := r.image(hostArch(), layers...)
	if err := remote.Write(r.reference(repository), img, r.client...); err != nil {
		r.t.Fatal(err)
	}
	return img
}

// pushIndex makes an image for each of some architectures, under one name.
func (r *realRegistry) pushIndex(repository string, archs ...string) {
	r.t.Helper()
	var index v1.ImageIndex = mutate.IndexMediaType(empty.Index, "application/vnd.oci.image.index.v1+json")
	for _, arch := range archs {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: r.image(arch, []tar.Header{{Name: "probe", Linkname: "probe"}, {Name: "arch", Linkname: arch}}),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	if err := remote.WriteIndex(r.reference(repository), index, r.client...); err != nil {
		r.t.Fatal(err)
	}
}

// spoil pushes an image, and changes what the registry has of its last layer.
func (r *realRegistry) spoil(repository string, change func([]byte) []byte) {
	r.t.Helper()
	img := r.push(repository, []tar.Header{{Name: "probe", Linkname: "probe"}}, []tar.Header{{Name: "etc/" + repository, Linkname: repository}})
	digest := lastLayer(r.t, img)
	path := filepath.Join(r.blobs, digest.Hex[:2], digest.Hex, "data")
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(b), 0o644)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// slowly is a way to the registry for everybody, on which the bytes of one blob come when they are
// asked for, until all may come.
type slowly struct {
	host  string
	nudge chan struct{} // a byte each
	all   chan struct{} // closed: no more waiting
}

func (r *realRegistry) slowly(blob v1.Hash) *slowly {
	r.t.Helper()
	s := &slowly{nudge: make(chan struct{}), all: make(chan struct{})}
	proxy := &httputil.ReverseProxy{
		Transport:     r.transport,
		FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "https", Host: r.host})
			p.Out.SetBasicAuth(registryUser, registryPassword)
		},
		ModifyResponse: func(resp *http.Response) error {
			if strings.HasSuffix(resp.Request.URL.Path, "/blobs/"+blob.String()) {
				resp.Body = slowBody{resp.Body, s, resp.Request.Context().Done()}
			}
			return nil
		},
	}
	server := httptest.NewServer(proxy)
	r.t.Cleanup(server.Close)
	s.host = strings.TrimPrefix(server.URL, "http://")
	return s
}

type slowBody struct {
	io.ReadCloser
	*slowly
	gone <-chan struct{} // who reads
}

func (b slowBody) Read(p []byte) (int, error) {
	select {
	case <-b.all:
	case <-b.nudge:
		p = p[:1]
	case <-b.gone:
		return 0, context.Canceled
	}
	return b.ReadCloser.Read(p)
}

func lastLayer(t *testing.T, img v1.Image) v1.Hash {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[len(layers)-1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func (r *realRegistry) reference(repository string) name.Reference {
	r.t.Helper()
	ref, err := name.ParseReference(r.host + "/" + repository)
	if err != nil {
		r.t.Fatal(err)
	}
	return ref
}

func (r *realRegistry) image(arch string, layers ...[]tar.Header) v1.Image {
	r.t.Helper()
	img := mutate.MediaType(empty.Image, "application/vnd.docker.distribution.manifest.v2+json")
	config, err := img.ConfigFile()
	if err != nil {
		r.t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config.Entrypoint = "linux", arch, []string{"/probe"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		r.t.Fatal(err)
	}
	for _, members := range layers {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		for _, h := range members {
			body := r.body(h)
			if h.Linkname, h.Mode = "", 0o755; h.Typeflag == 0 {
				h.Typeflag, h.Size = tar.TypeReg, int64(len(body))
			}
			if err := tw.WriteHeader(&h); err != nil {
				r.t.Fatal(err)
			}
			if h.Typeflag != tar.TypeReg {
				continue
			}
			if _, err := tw.Write(body); err != nil {
				r.t.Fatal(err)
			}
		}
		if err := tw.Close(); err != nil {
			r.t.Fatal(err)
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
		if err != nil {
			r.t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			r.t.Fatal(err)
		}
	}
	return img
}

// body is what a file of an image holds: what its header has for a link's name, or else.
func (r *realRegistry) body(h tar.Header) []byte {
	r.t.Helper()
	switch h.Linkname {
	case "probe":
		body, err := os.ReadFile(shimtest.Probe(r.t))
		if err != nil {
			r.t.Fatal(err)
		}
		return body
	case "zeros", "noise":
		body := make([]byte, h.Size)
		if h.Linkname == "noise" { // which nothing packs
			if _, err := rand.Read(body); err != nil {
				r.t.Fatal(err)
			}
		}
		return body
	}
	return []byte(h.Linkname)
}

// held lists what a store has of images, also half of them.
func held(t *testing.T, data string) (list []string) {
	t.Helper()
	for _, dir := range []string{"blobs/sha256", "layers", "tmp", "uses"} {
		entries, err := os.ReadDir(filepath.Join(data, "images", dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			list = append(list, dir+"/"+e.Name())
		}
	}
	return list
}

// TestRealRegistry pulls from Debian's docker-registry: by tag and digest, with
// a pod's credentials and the node's, through a mirror, and what must be refused.
func TestRealRegistry(t *testing.T) {
	reg := startRegistry(t)
	good, err := reg.push("team/app:1", []tar.Header{{Name: "probe", Linkname: "probe"}}, []tar.Header{{Name: "etc/one", Linkname: "1"}}, []tar.Header{{Name: "etc/two", Linkname: "2"}}).Digest()
	if err != nil {
		t.Fatal(err)
	}
	reg.pushIndex("team/any:1", "s390x", hostArch())
	reg.pushIndex("team/other:1", "s390x", "riscv64")
	reg.push("team/evil:1", []tar.Header{{Name: "probe", Linkname: "probe"}}, []tar.Header{{Name: "../../evil", Linkname: "x"}})
	reg.push("team/device:1", []tar.Header{{Name: "probe", Linkname: "probe"}}, []tar.Header{{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}})
	reg.spoil("team/torn:1", func(b []byte) []byte { return b[:len(b)/2] })
	reg.spoil("team/lying:1", func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	slowImage := reg.push("team/slow:1", []tar.Header{{Name: "probe", Linkname: "probe"}}, []tar.Header{{Name: "noise", Linkname: "noise", Size: 1 << 20}})
	slow := reg.slowly(lastLayer(t, slowImage))
	l := prepareLab(t)
	l.registries = image.Registries{
		Mirrors: map[string]image.Mirror{"registry.invalid": {Endpoints: []string{"https://" + reg.host}}},
		Configs: map[string]image.RegistryConfig{reg.host: {TLS: &image.RegistryTLS{CAFile: reg.caFile}}},
	}
	l.begin()
	t.Cleanup(func() { l.stop() })
	login := `{"auths":{"` + reg.host + `":{"username":"` + registryUser + `","password":"` + registryPassword + `"}}}`
	if _, err := l.client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "login", Namespace: "default"}, Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(login)},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	of := func(ref string, secrets ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = ref, corev1.PullAlways
			for _, s := range secrets {
				p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
			}
		}
	}
	app, byDigest := reg.host+"/team/app:1", reg.host+"/team/app@"+good.String()
	l.pod("stranger", of(app), "run")
	l.event("stranger", "Failed", "Error: ErrImagePull")
	l.pod("tag", of(app, "login"), "run")
	p := l.wait("tag", "to be ready", ready)
	if s := p.Status.ContainerStatuses[0]; s.ImageID != byDigest || s.Image != app {
		t.Errorf("image %s, id %s, want %s", s.Image, s.ImageID, byDigest)
	}
	l.event("tag", "Pulling", `Pulling image "`+app+`"`)
	l.event("tag", "Pulled", `Successfully pulled image "`+app+`" in `)
	l.pod("digest", of(byDigest, "login"), "run")
	l.wait("digest", "to be ready", ready)
	l.pod("untagged", of(reg.host+"/team/app:none", "login"), "run")
	l.event("untagged", "Failed", "MANIFEST_UNKNOWN")
	l.pod("slow", of(slow.host+"/team/slow:1"), "run")

	// The node's own credentials, in docker's format, are for everybody; mirrors have theirs in the registries.
	if err := os.WriteFile(filepath.Join(l.data, "config.json"), []byte(login), 0o600); err != nil {
		t.Fatal(err)
	}
	l.pod("own", of(app), "run")
	l.wait("own", "to be ready", ready)
	l.pod("any", func(p *corev1.Pod) {
		of(reg.host + "/team/any:1")(p)
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
	}, "file", "/arch")
	l.wait("any", "to succeed", succeeded)
	if got := l.logs("any/c"); got != hostArch() {
		t.Errorf("of an image for several machines, that for %q was taken", got)
	}
	l.delete("any", 1)

	// What is refused is told, and leaves nothing.
	before := held(t, l.data)
	wrongs := map[string]string{
		"evil": `path "../../evil" leaves the image`, "device": `layer entry "sda": image refused: device node outside /dev`,
		"torn": "does not match expected size", "lying": "error verifying sha256 checksum", "other": "no child with platform linux/" + hostArch(),
	}
	for name := range wrongs {
		l.pod(name, of(reg.host+"/team/"+name+":1"), "run")
	}
	for name, words := range wrongs {
		l.event(name, "Failed", words)
		l.event(name, "Failed", "Error: ErrImagePull")
	}
	if now := held(t, l.data); !slices.Equal(now, before) {
		t.Errorf("refused images left something: there was %v, there is %v", before, now)
	}
	p = l.wait("untagged", "to be in back-off", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "ImagePullBackOff"
	})
	if m := p.Status.ContainerStatuses[0].State.Waiting.Message; !strings.HasPrefix(m, `Back-off pulling image "`+reg.host+`/team/app:none": `) {
		t.Errorf("a pod in back-off says %q", m)
	}

	// A pull that takes long says how far it is, and its pod waits as any that is being made.
	told := regexp.MustCompile(`^Pulling image "` + regexp.QuoteMeta(slow.host) + `/team/slow:1": (\d+) of (\d+) bytes$`)
	var progress []string
	shimtest.Eventually(t, "the pod of a slow pull to say how far it is", func() bool {
		select {
		case slow.nudge <- struct{}{}:
		default: // nobody reads yet
		}
		events, err := l.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if found := told.FindStringSubmatch(e.Message); found != nil && e.InvolvedObject.Name == "slow" && e.Reason == "Pulling" && e.Type == corev1.EventTypeNormal {
				progress = found
			}
		}
		return progress != nil
	})
	done, err := strconv.Atoi(progress[1])
	total, err2 := strconv.Atoi(progress[2])
	if err != nil || err2 != nil || done < 1 || done >= total || total < 1<<20 {
		t.Errorf("a slow pull says %q", progress[0])
	}
	p = l.wait("slow", "to wait for its image", func(p *corev1.Pod) bool { return len(p.Status.ContainerStatuses) == 1 })
	if s := p.Status.ContainerStatuses[0].State.Waiting; p.Status.Phase != corev1.PodPending || s == nil || s.Reason != "ContainerCreating" || s.Message != "" {
		t.Errorf("while its image is pulled a pod is %s, its container %+v", p.Status.Phase, p.Status.ContainerStatuses[0].State)
	}
	close(slow.all)
	l.wait("slow", "to be ready", ready)
	l.event("slow", "Pulled", `Successfully pulled image "`+slow.host+`/team/slow:1" in `)

	for name := range wrongs {
		l.delete(name, 1)
	}
	for _, name := range []string{"stranger", "tag", "digest", "untagged", "own", "slow"} {
		l.delete(name, 1)
	}
	l.clean()
	l.stop()

	config := l.registries.Configs[reg.host]
	config.Auth = &image.RegistryAuth{Username: registryUser, Password: registryPassword}
	l.registries.Configs[reg.host] = config
	l.begin()
	l.pod("mirrored", of("registry.invalid/team/app:1"), "run")
	p = l.wait("mirrored", "to run what the mirror has", ready)
	if s := p.Status.ContainerStatuses[0]; !strings.HasPrefix(s.ImageID, "registry.invalid/team/app@sha256:") {
		t.Errorf("image id %s", s.ImageID)
	}
	l.delete("mirrored", 1)
	l.clean()
}

func hostArch() string { return runtime.GOARCH }
