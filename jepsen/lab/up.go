package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// nodeStatus is what the lab reads of a node's own account of itself.
type nodeStatus struct {
	Phase    string `json:"phase"`
	Cluster  string `json:"cluster"`
	Role     string `json:"role"`
	Leader   string `json:"leader"`
	Revision uint64 `json:"revision"`
	Members  []struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"members"`
}

// Up starts the node of every host that has none running, and waits until one cluster has formed
// and all its nodes are Ready, telling progress a line each with the time since
// the nodes were started. They are started with the options given, beside the lab's own.
func (l *Lab) Up(ctx context.Context, progress io.Writer, options ...string) error {
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(progress, "%6.2fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	started := 0
	for _, h := range l.hosts {
		if _, err := h.Pid(); err == nil {
			continue
		}
		if err := h.Start(options...); err != nil {
			return err
		}
		started++
	}
	say("started %d of %d nodes on %s", started, len(l.hosts), l.subnet)
	cluster, err := l.WaitFormed(ctx)
	if err != nil {
		return err
	}
	say("formed cluster %s", cluster)
	if err := l.WaitReady(ctx); err != nil {
		return err
	}
	say("all %d nodes are Ready", len(l.hosts))
	return nil
}

// WaitFormed waits until every node is a member of one cluster, knows all its
// members and agrees with the others on its leader. It returns the cluster's id.
func (l *Lab) WaitFormed(ctx context.Context) (cluster string, err error) {
	for {
		cluster, err = l.formed(ctx)
		if err == nil {
			return cluster, nil
		}
		for _, h := range l.hosts {
			if _, perr := h.Pid(); perr != nil {
				return "", fmt.Errorf("the node on %s ended; its last words are in %s", h.Name, h.LogPath())
			}
		}
		if perr := pause(ctx, "one cluster to form"); perr != nil {
			return "", fmt.Errorf("%w; so far: %w", perr, err)
		}
	}
}

func (l *Lab) formed(ctx context.Context) (string, error) {
	var first nodeStatus
	for i, h := range l.hosts {
		raw, err := h.Status(ctx)
		if err != nil {
			return "", err
		}
		var s nodeStatus
		if err := json.Unmarshal(raw, &s); err != nil {
			return "", fmt.Errorf("status of %s: %w", h.Name, err)
		}
		if i == 0 {
			first = s
		}
		switch {
		case s.Cluster == "":
			return "", fmt.Errorf("%s is in no cluster", h.Name)
		case s.Leader == "":
			return "", fmt.Errorf("%s knows no leader", h.Name)
		case s.Cluster != first.Cluster || s.Leader != first.Leader:
			return "", fmt.Errorf("%s and %s disagree: cluster %s led by %s, cluster %s led by %s",
				l.hosts[0].Name, h.Name, first.Cluster, first.Leader, s.Cluster, s.Leader)
		case len(s.Members) != len(l.hosts):
			return "", fmt.Errorf("%s knows %d members of %d", h.Name, len(s.Members), len(l.hosts))
		}
	}
	return first.Cluster, nil
}

// WaitReady waits until the API says that every host's node is Ready.
func (l *Lab) WaitReady(ctx context.Context) error {
	client, err := l.hosts[0].Client()
	if err != nil {
		return err
	}
	for {
		missing, err := l.notReady(ctx, client)
		if err == nil && len(missing) == 0 {
			return nil
		}
		if perr := pause(ctx, fmt.Sprintf("nodes to be Ready (missing: %v, last error: %v)", missing, err)); perr != nil {
			return perr
		}
	}
}

func (l *Lab) notReady(ctx context.Context, client kubernetes.Interface) (missing []string, err error) {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	ready := map[string]bool{}
	for _, node := range nodes.Items {
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				ready[node.Name] = true
			}
		}
	}
	for _, h := range l.hosts {
		if !ready[h.Name] {
			missing = append(missing, h.Name)
		}
	}
	return missing, nil
}

// Client is an API client with the admin's rights that speaks to this host's
// node and no other.
func (h *Host) Client() (kubernetes.Interface, error) {
	config, err := h.ClientConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// ClientConfig is how clients of the host's node speak to it.
func (h *Host) ClientConfig() (*rest.Config, error) {
	data, err := os.ReadFile(h.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Kubeconfig(), err)
	}
	// Where the host is now: the file may be of a moment before it was readdressed.
	config.Host = "https://" + net.JoinHostPort(h.Addr.String(), "6443")
	config.ServerName = "kubernetes"
	config.QPS, config.Burst = -1, -1 // the cluster is what is tested, not the client's patience
	return config, nil
}
