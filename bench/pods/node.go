package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"kontiki/bench/lab"
	"kontiki/bench/peer"
	"kontiki/bench/proc"
)

const (
	host      = "n1"
	imageName = "kontiki.local/web:v1"
	program   = "/web"
)

// nodeOptions: the default is fewer pods than are measured.
var nodeOptions = []string{"--max-pods", "250"}

// node is a cluster of one, on a virtual host, with an image loaded.
type node struct {
	lab        *lab.Lab
	bin        string
	client     kubernetes.Interface
	kubeconfig string
	pods       *watched
	cancel     context.CancelFunc
}

func startNode(ctx context.Context, bin, archive string) (*node, error) {
	l, err := lab.New(bin, "benchpod")
	if err != nil {
		return nil, err
	}
	n := &node{lab: l, bin: bin, cancel: func() {}}
	if err := n.begin(ctx, archive); err != nil {
		return nil, errors.Join(err, n.stop())
	}
	return n, nil
}

func (n *node) begin(ctx context.Context, archive string) error {
	if _, err := n.lab.Up(ctx, 1, nodeOptions...); err != nil {
		return err
	}
	if err := n.lab.Kontiki(ctx, host, "image", "load", archive); err != nil {
		return err
	}
	var err error
	if n.kubeconfig, err = n.lab.Kubeconfig(ctx, host); err != nil {
		return err
	}
	config, err := n.lab.Client(ctx, host)
	if err != nil {
		return err
	}
	config.QPS = -1
	if n.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	err = peer.Wait(ctx, "the namespace's ServiceAccount", func() (bool, error) {
		_, err := n.client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.pods, n.cancel = &watched{seen: map[string]sighting{}, changed: make(chan struct{})}, cancel
	return n.pods.watch(watching, n.client)
}

func (n *node) stop() error {
	n.cancel()
	if n.pods != nil && n.pods.factory != nil {
		n.pods.factory.Shutdown()
	}
	return n.lab.Down()
}

// create makes a pod that is bound to the node from the beginning.
func (n *node) create(ctx context.Context, name string) error {
	_, err := n.client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{NodeName: host, TerminationGracePeriodSeconds: ptr.To[int64](1),
			Containers: []corev1.Container{{Name: "web", Image: imageName, ImagePullPolicy: corev1.PullIfNotPresent}}},
	}, metav1.CreateOptions{})
	return err
}

// clear removes pods, and waits until nothing of them is left.
func (n *node) clear(ctx context.Context) error {
	err := n.client.CoreV1().Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}, metav1.ListOptions{})
	if err != nil {
		return err
	}
	return peer.Wait(ctx, "all pods to be gone", func() (bool, error) {
		left, err := n.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		_, inPods, err := n.lab.Apart(host)
		return len(left.Items) == 0 && len(inPods) == 0, err
	})
}

// memory is what the node's own processes have resident.
func (n *node) memory() (u proc.Use, processes int, err error) {
	own, _, err := n.lab.Apart(host)
	if err != nil {
		return u, 0, err
	}
	u, err = memoryOf(own)
	return u, len(own), err
}

func memoryOf(pids []int) (u proc.Use, err error) {
	for _, pid := range pids {
		m, err := proc.Memory(pid)
		if err != nil {
			return u, err
		}
		u = u.Add(m)
	}
	return u, nil
}

// sighting is when a client that watches saw a pod bound, and saw it running.
type sighting struct{ bound, running time.Time }

// watched are the pods as a client sees them.
type watched struct {
	factory informers.SharedInformerFactory

	mu      sync.Mutex // protects what follows
	seen    map[string]sighting
	running int
	changed chan struct{} // closed and replaced when one more runs
}

func (w *watched) watch(ctx context.Context, client kubernetes.Interface) error {
	w.factory = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace("default"))
	see := func(obj any) {
		p, now := obj.(*corev1.Pod), time.Now()
		if p.DeletionTimestamp != nil {
			return // of the round before
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		s := w.seen[p.Name]
		if s.bound.IsZero() {
			s.bound = now
		}
		if s.running.IsZero() && p.Status.Phase == corev1.PodRunning {
			s.running = now
			w.running++
			close(w.changed)
			w.changed = make(chan struct{})
		}
		w.seen[p.Name] = s
	}
	_, err := w.factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, obj any) { see(obj) }})
	if err != nil {
		return err
	}
	w.factory.Start(ctx.Done())
	for _, ok := range w.factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return errors.New("the API does not list pods")
		}
	}
	return nil
}

// forget begins anew.
func (w *watched) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen, w.running = map[string]sighting{}, 0
}

// wait waits until so many pods were seen running, and returns how long each took and when the last ran.
func (w *watched) wait(ctx context.Context, count int) (took []time.Duration, last time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, peer.Patience)
	defer cancel()
	for {
		w.mu.Lock()
		running, changed := w.running, w.changed
		w.mu.Unlock()
		if running >= count {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, last, fmt.Errorf("%d of %d pods run: %w", running, count, context.Cause(ctx))
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.seen {
		if s.running.IsZero() {
			continue
		}
		took = append(took, s.running.Sub(s.bound))
		if s.running.After(last) {
			last = s.running
		}
	}
	return took, last, nil
}

// healthy asks the agent, by way of the API, whether it is whole, and how many pods it has.
func (n *node) healthy(ctx context.Context) (pods int, err error) {
	ask := func(path string) ([]byte, error) {
		return n.client.CoreV1().RESTClient().Get().Resource("nodes").Name(host).SubResource("proxy").Suffix(path).DoRaw(ctx)
	}
	if _, err := ask("healthz"); err != nil {
		return 0, err
	}
	raw, err := ask("pods")
	if err != nil {
		return 0, err
	}
	return countRunning(raw)
}

// unrestarted says which pod does not run, or not since its beginning.
func (n *node) unrestarted(ctx context.Context, count int) error {
	list, err := n.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(list.Items) != count {
		return fmt.Errorf("%d pods are there, of %d", len(list.Items), count)
	}
	for i := range list.Items {
		p := &list.Items[i]
		for _, c := range p.Status.ContainerStatuses {
			if p.Status.Phase != corev1.PodRunning || c.RestartCount > 0 || c.State.Running == nil {
				return fmt.Errorf("pod %s is %s, its container was restarted %d times", p.Name, p.Status.Phase, c.RestartCount)
			}
		}
	}
	return nil
}
