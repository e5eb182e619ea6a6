package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"kontiki/bench/load"
)

// maxClients is the largest number of clients at once, each with a connection of its own.
const maxClients = 64

type encoding string

const (
	protobuf encoding = "protobuf"
	json     encoding = "JSON"
)

var mediaTypes = map[encoding]string{protobuf: "application/vnd.kubernetes.protobuf", json: "application/json"}

// connect makes clients, spread over the endpoints.
func (s *server) connect(e encoding, n int) error {
	if s.clients == nil {
		s.clients = map[encoding][]kubernetes.Interface{}
	}
	for i := range n {
		config := rest.CopyConfig(s.endpoints[i%len(s.endpoints)])
		config.ContentType, config.AcceptContentTypes = mediaTypes[e], mediaTypes[e]
		config.QPS, config.Burst = -1, -1
		config.Dial = new(net.Dialer).DialContext // client-go shares connections of equal configurations
		c, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		s.clients[e] = append(s.clients[e], c)
	}
	return nil
}

type kind string

const (
	configMaps kind = "ConfigMap"
	pods       kind = "Pod"
)

// objectSize is about what an object takes in JSON.
const objectSize = 2048

func newConfigMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"app": "bench"}},
		Data:       map[string]string{"key": strings.Repeat("v", objectSize-200)},
	}
}

// newPod is one that no scheduler knows: what is measured is the API.
func newPod(name string) *corev1.Pod {
	no := false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: namespace, Labels: map[string]string{"app": "bench"},
			Annotations: map[string]string{"padding": strings.Repeat("v", objectSize-700)},
		},
		Spec: corev1.PodSpec{
			SchedulerName: "none", AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{{
				Name: "web", Image: "example.com/web:v1", Args: []string{"--listen", ":80"},
				Env:   []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
				Ports: []corev1.ContainerPort{{ContainerPort: 80}},
			}},
		},
	}
}

// names makes names that no call has had before.
var names atomic.Int64

func newName() string { return fmt.Sprintf("o-%08d", names.Add(1)) }

// operation is what clients do in a loop.
type operation string

const (
	createOp operation = "create"
	getOp    operation = "get"
)

// work is an operation on a kind by the clients of one server. It is a load.Contender.
type work struct {
	*server
	op       operation
	kind     kind
	encoding encoding
	existing []string // what is there to get
}

func (w work) Drive(ctx context.Context, n int, length time.Duration) (load.Latencies, error) {
	clients := w.clients[w.encoding]
	var lastErr atomic.Pointer[error]
	l := load.Drive(ctx, n, length, func(ctx context.Context, writer, i int) error {
		err := w.call(ctx, clients[writer], writer*7919+i)
		if err != nil {
			lastErr.Store(&err)
		}
		return err
	})
	if p := lastErr.Load(); p != nil && ctx.Err() == nil {
		return l, fmt.Errorf("%s: %s of a %s: %w", w.name, w.op, w.kind, *p)
	}
	return l, nil
}

func (w work) call(ctx context.Context, c kubernetes.Interface, i int) (err error) {
	core := c.CoreV1()
	switch {
	case w.op == createOp && w.kind == configMaps:
		_, err = core.ConfigMaps(namespace).Create(ctx, newConfigMap(newName()), metav1.CreateOptions{})
	case w.op == createOp:
		_, err = core.Pods(namespace).Create(ctx, newPod(newName()), metav1.CreateOptions{})
	case w.kind == configMaps:
		_, err = core.ConfigMaps(namespace).Get(ctx, w.existing[i%len(w.existing)], metav1.GetOptions{})
	default:
		_, err = core.Pods(namespace).Get(ctx, w.existing[i%len(w.existing)], metav1.GetOptions{})
	}
	return err
}
