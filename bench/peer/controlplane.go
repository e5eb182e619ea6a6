package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"kontiki/bench/cert"
)

// ControlPlane is upstream's kube-apiserver above one etcd, on loopback.
type ControlPlane struct {
	Config *rest.Config // an administrator's

	dir, program string // where all of it is; kube-apiserver's
	address      string
	etcd         *Etcd
	api          *Process
}

// ControlPlaneName is what it is called in the table.
const ControlPlaneName = "kube-apiserver + etcd"

// StartControlPlane starts it and waits until it is ready. What is missing is installed and built.
func StartControlPlane(ctx context.Context, bin string) (*ControlPlane, error) {
	if err := InstallEtcd(ctx); err != nil {
		return nil, err
	}
	program, err := buildAPIServer(ctx, bin)
	if err != nil {
		return nil, err
	}
	p := &ControlPlane{program: program}
	if p.dir, err = os.MkdirTemp("", "kontiki-bench-"); err != nil {
		return nil, err
	}
	if err := p.start(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *ControlPlane) start(ctx context.Context) (err error) {
	if err := cert.Write(p.dir); err != nil {
		return err
	}
	if p.address, err = FreeAddress(); err != nil {
		return err
	}
	p.Config = &rest.Config{Host: "https://" + p.address, TLSClientConfig: rest.TLSClientConfig{
		CAFile: cert.File(p.dir), CertFile: cert.File(p.dir), KeyFile: cert.Key(p.dir),
	}}
	if p.etcd, err = StartEtcd(p.dir, "a"); err != nil {
		return err
	}
	if p.api, err = p.startAPIServer(); err != nil {
		return err
	}
	if err := Ready(ctx, ControlPlaneName, p.Config); err != nil {
		log, rerr := os.ReadFile(p.log())
		return errors.Join(err, rerr, fmt.Errorf("kube-apiserver said at last:\n%s", log[max(0, len(log)-2000):]))
	}
	return nil
}

// Restart starts kube-apiserver anew, without waiting: nothing is lost, the state is etcd's.
func (p *ControlPlane) Restart() (err error) {
	p.api.Kill()
	p.api, err = p.startAPIServer()
	return err
}

// Processes are kube-apiserver and etcd.
func (p *ControlPlane) Processes() []int { return []int{p.api.Pid(), p.etcd.Processes[0].Pid()} }

// Close ends it and removes all that it made.
func (p *ControlPlane) Close() error {
	if p.api != nil {
		p.api.Kill()
	}
	if p.etcd != nil {
		p.etcd.Close()
	}
	return os.RemoveAll(p.dir)
}

func (p *ControlPlane) log() string { return filepath.Join(p.dir, "kube-apiserver.log") }

// buildAPIServer builds upstream's kube-apiserver from its module and returns the
// program. The first time takes minutes.
func buildAPIServer(ctx context.Context, bin string) (string, error) {
	program, err := filepath.Abs(filepath.Join(bin, "peer-kube-apiserver"))
	if err != nil {
		return "", err
	}
	const version = "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
	cmd := exec.CommandContext(ctx, "go", "build", "-C", "bench/peers", "-trimpath", "-ldflags", version, "-o", program, "./kube-apiserver")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build upstream's kube-apiserver: %w\n%s", err, out)
	}
	return program, nil
}

// startAPIServer starts it above etcd, with the one certificate for all that needs one.
func (p *ControlPlane) startAPIServer() (*Process, error) {
	host, port, err := net.SplitHostPort(p.address)
	if err != nil {
		return nil, err
	}
	file, key := cert.File(p.dir), cert.Key(p.dir)
	return Start(p.log(), p.program,
		"--etcd-servers", strings.Join(p.etcd.Endpoints, ","), "--etcd-cafile", file, "--etcd-certfile", file, "--etcd-keyfile", key,
		"--bind-address", host, "--advertise-address", host, "--secure-port", port, "--endpoint-reconciler-type", "none",
		"--tls-cert-file", file, "--tls-private-key-file", key, "--client-ca-file", file,
		"--authorization-mode", "Node,RBAC", "--service-cluster-ip-range", "10.43.0.0/16",
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", file, "--service-account-signing-key-file", key)
}

// Ready waits until an API server, named in the error, says that it is.
func Ready(ctx context.Context, name string, config *rest.Config) error {
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: tls}, Timeout: time.Second}
	return Wait(ctx, name+" to be ready", func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/readyz", nil)
		if err != nil {
			return false, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return false, nil // not yet
		}
		return resp.StatusCode == http.StatusOK, resp.Body.Close()
	})
}
