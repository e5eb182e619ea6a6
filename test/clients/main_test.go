package clients

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// patience bounds each wait; the machine may be busy.
const patience = 90 * time.Second

// kubeconfig is the admin's, of the one node of the lab.
var kubeconfig string

func TestMain(m *testing.M) {
	bin := os.Getenv("KONTIKI_BIN")
	if bin == "" || os.Getuid() != 0 {
		fmt.Println("left out: needs the built program and root: run make test")
		return
	}
	os.Exit(inLab(bin, m.Run))
}

// inLab runs the tests while a lab of one node is there.
func inLab(bin string, run func() int) int {
	kontiki := func(args ...string) string {
		out, err := exec.Command(bin, args...).CombinedOutput()
		if err != nil {
			fmt.Printf("kontiki %s: %v\n%s", strings.Join(args, " "), err, out)
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	kontiki("lab", "down", "--name", "clients") // of a run that was cut off
	defer kontiki("lab", "down", "--name", "clients")
	kontiki("lab", "up", "--name", "clients", "--nodes", "1")
	kontiki("lab", "exec", "--name", "clients", "n1", "--", "kontiki", "image", "load", filepath.Join(filepath.Dir(bin), "examples", "web.tar"))
	if kubeconfig = kontiki("lab", "kubeconfig", "--name", "clients"); kubeconfig == "" {
		return 1
	}
	code := run()
	if code != 0 {
		logs := strings.Split(kontiki("lab", "logs", "--name", "clients", "n1"), "\n")
		fmt.Println(strings.Join(logs[max(0, len(logs)-60):], "\n"))
	}
	return code
}

func config(t *testing.T) *rest.Config {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func client(t *testing.T) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(config(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// namespace makes one for a test.
func namespace(t *testing.T, c kubernetes.Interface, name string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"test": name}}}
	if _, err := c.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %v for %s: %v", patience, what, err)
		}
	}
}

// serve serves over TLS where the node can reach it. It returns the address and the
// certificate, which is its own authority.
func serve(t *testing.T, h http.Handler) (addr *net.TCPAddr, ca []byte) {
	t.Helper()
	node, err := url.Parse(config(t).Host)
	if err != nil {
		t.Fatal(err)
	}
	probe, err := net.Dial("tcp", node.Host) // from the address that the node sees
	if err != nil {
		t.Fatal(err)
	}
	ip := probe.LocalAddr().(*net.TCPAddr).IP
	probe.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{ip}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", net.JoinHostPort(ip.String(), "0"), &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: patience}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends when it is closed
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
