package acceptance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kontiki/jepsen/check"
	"kontiki/jepsen/lab"
)

const (
	writerCount = 16
	counters    = writerCount / 2 // each is counted up by two writers
)

// workload is what writers write, and what was acknowledged to them. Each writer
// takes turns at two things:
//
//   - it creates a ConfigMap of a name never used before: one that was created
//     twice would be refused as there already, one that is missing was lost;
//   - it counts a counter up that it shares with another writer, by compare and
//     set: a write that was applied twice, or lost, or built on an old read, makes
//     counter and acknowledged counts differ. A conflict with the other writer is no
//     failure; it reads again.
//
// Nothing is repeated by the client, and no request may fail.
type workload struct {
	cluster *cluster
	names   atomic.Int64 // of ConfigMaps, so far

	mu      sync.Mutex
	created map[string]bool
	counts  [counters]int // acknowledged
	acks    []time.Time
	turns   [writerCount]int // finished turns of each writer
	failed  []error
}

var errStale = errors.New("a stale read")

func counterName(i int) string { return "counter-" + strconv.Itoa(i) }

const writtenPrefix = "written-"

func writtenName(i int64) string { return writtenPrefix + strconv.FormatInt(i, 10) }

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
}

func newWorkload(t *testing.T, c *cluster) *workload {
	t.Helper()
	w := &workload{cluster: c, created: map[string]bool{}}
	client := c.client(t, c.Hosts()[0])
	for i := range counters {
		if err := create(t.Context(), client, configMap(counterName(i), map[string]string{"n": "0"})); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// The three requests, each sent once: client-go would repeat some by itself.

func create(ctx context.Context, client kubernetes.Interface, cm *corev1.ConfigMap) error {
	return client.CoreV1().RESTClient().Post().Namespace("default").Resource("configmaps").MaxRetries(0).Body(cm).Do(ctx).Error()
}

func update(ctx context.Context, client kubernetes.Interface, cm *corev1.ConfigMap) error {
	return client.CoreV1().RESTClient().Put().Namespace("default").Resource("configmaps").Name(cm.Name).MaxRetries(0).Body(cm).Do(ctx).Error()
}

// readCounter reads a counter; resourceVersion "" is the latest, "0" what the node has.
func readCounter(ctx context.Context, client kubernetes.Interface, i int, resourceVersion string) (*corev1.ConfigMap, int, error) {
	cm := &corev1.ConfigMap{}
	request := client.CoreV1().RESTClient().Get().Namespace("default").Resource("configmaps").Name(counterName(i)).MaxRetries(0)
	if resourceVersion != "" {
		request = request.Param("resourceVersion", resourceVersion)
	}
	if err := request.Do(ctx).Into(cm); err != nil {
		return nil, 0, err
	}
	n, err := strconv.Atoi(cm.Data["n"])
	return cm, n, err
}

// start starts the writers, spread over hosts, and returns what stops them and
// waits for their last requests.
func (w *workload) start(t *testing.T, hosts []*lab.Host) (stop func()) {
	t.Helper()
	var clients []kubernetes.Interface
	for _, h := range hosts {
		clients = append(clients, w.cluster.client(t, h))
	}
	var writers sync.WaitGroup
	var ending atomic.Bool
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	for i := range writerCount {
		// A counter's two writers are on different hosts.
		host := (i + i/counters) % len(hosts)
		writers.Go(func() {
			for !ending.Load() {
				if err := w.turn(ctx, clients[host], i); err != nil {
					w.fail(fmt.Errorf("writer %d through %s: %w", i, hosts[host].Name, err))
					return
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		ending.Store(true)
		writers.Wait()
		cancel()
	})
}

// turn is a writer's turn: one new ConfigMap, and one count.
func (w *workload) turn(ctx context.Context, client kubernetes.Interface, writer int) error {
	name := writtenName(w.names.Add(1))
	if err := create(ctx, client, configMap(name, nil)); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	w.acknowledge(func() { w.created[name] = true })
	if err := w.count(ctx, client, writer%counters); err != nil {
		return err
	}
	w.mu.Lock()
	w.turns[writer]++
	w.mu.Unlock()
	return nil
}

// count counts a counter up by one.
func (w *workload) count(ctx context.Context, client kubernetes.Interface, i int) error {
	for {
		cm, err := w.readLatest(ctx, client, i)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(cm.Data["n"])
		if err != nil {
			return err
		}
		cm.Data["n"] = strconv.Itoa(n + 1)
		err = update(ctx, client, cm)
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("count %s up from %d: %w", cm.Name, n, err)
		}
		w.acknowledge(func() { w.counts[i]++ })
		return nil
	}
}

// readLatest reads a counter, and fails if what it reads is older than what had
// been acknowledged before.
func (w *workload) readLatest(ctx context.Context, client kubernetes.Interface, i int) (*corev1.ConfigMap, error) {
	w.mu.Lock()
	acknowledged := w.counts[i]
	w.mu.Unlock()
	cm, n, err := readCounter(ctx, client, i, "")
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", counterName(i), err)
	}
	if n < acknowledged {
		return nil, fmt.Errorf("%w: %s is said to be %d, and had been acknowledged as %d or more before", errStale, cm.Name, n, acknowledged)
	}
	return cm, nil
}

// read reads through a host that is going to be struck, one counter after the other.
// It may be refused or not be answered, but never be told what is old. It returns
// what stops it.
func (w *workload) read(t *testing.T, h *lab.Host) (stop func()) {
	t.Helper()
	client := w.cluster.client(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			once, cancel := context.WithTimeout(ctx, 2*time.Second)
			_, err := w.readLatest(once, client, i%counters)
			cancel()
			if errors.Is(err, errStale) {
				w.fail(fmt.Errorf("through %s, which was struck: %w", h.Name, err))
				return
			}
			<-pace.C
		}
	}()
	return sync.OnceFunc(func() { cancel(); <-done })
}

func (w *workload) acknowledge(record func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	record()
	w.acks = append(w.acks, time.Now())
}

func (w *workload) acknowledged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acks)
}

func (w *workload) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = append(w.failed, err)
}

// failures fails the test if a request failed.
func (w *workload) failures(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, err := range w.failed {
		t.Error(err)
	}
	if len(w.failed) > 0 {
		t.FailNow()
	}
}

// progress waits until every writer has finished that many turns more, of which
// all but the first began after the call.
func (w *workload) progress(t *testing.T, turns int) {
	t.Helper()
	w.mu.Lock()
	before := w.turns
	w.mu.Unlock()
	w.cluster.eventually(t, fmt.Sprintf("%d turns of every writer", turns), func(context.Context) error {
		w.failures(t)
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := range before {
			if w.turns[i] < before[i]+turns {
				return fmt.Errorf("writer %d finished %d", i, w.turns[i]-before[i])
			}
		}
		return nil
	})
}

// longestGap is the longest time without an acknowledgement since a moment.
func (w *workload) longestGap(since time.Time) (gap time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := since
	for _, at := range w.acks {
		if at.After(since) {
			gap, last = max(gap, at.Sub(last)), at
		}
	}
	return gap
}

// readThrough reads every counter through a host, from its first answer on.
func (w *workload) readThrough(t *testing.T, h *lab.Host) {
	t.Helper()
	client := w.cluster.client(t, h)
	w.cluster.eventually(t, h.Name+" to answer", func(ctx context.Context) error {
		_, _, err := readCounter(ctx, client, 0, "0")
		return err
	})
	for i := range counters {
		if _, err := w.readLatest(t.Context(), client, i); err != nil {
			t.Errorf("through %s: %v", h.Name, err)
		}
	}
}

// writeThrough does one turn for each counter through a host.
func (w *workload) writeThrough(t *testing.T, h *lab.Host) {
	t.Helper()
	client := w.cluster.client(t, h)
	for i := range counters {
		if err := w.turn(t.Context(), client, i); err != nil {
			t.Fatalf("through %s: %v", h.Name, err)
		}
	}
}

// counters are the counters as a host shows them.
func (w *workload) counters(t *testing.T, h *lab.Host, resourceVersion string) (values []int) {
	t.Helper()
	client := w.cluster.client(t, h)
	for i := range counters {
		_, n, err := readCounter(t.Context(), client, i, resourceVersion)
		if err != nil {
			t.Fatalf("read %s on %s: %v", counterName(i), h.Name, err)
		}
		values = append(values, n)
	}
	return values
}

// check compares, while nobody writes, what was acknowledged with what every
// node's own replica holds.
func (w *workload) check(t *testing.T) {
	t.Helper()
	w.failures(t)
	for _, h := range w.cluster.Hosts() {
		client := w.cluster.client(t, h)
		w.cluster.eventually(t, h.Name+" to hold what was acknowledged", func(ctx context.Context) error { return w.holds(ctx, client) })
	}
}

// holds tells whether the replica behind client holds what was acknowledged, all
// of it and each once.
func (w *workload) holds(ctx context.Context, client kubernetes.Interface) error {
	list, err := client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var adds []check.Add
	for i := range w.names.Load() {
		a := check.Add{Element: writtenName(i + 1), Outcome: check.Unknown}
		if w.created[a.Element] {
			a.Outcome = check.OK
		}
		adds = append(adds, a)
	}
	held := make(map[string]uint64)
	var found []check.Anomaly
	for _, cm := range list.Items {
		if strings.HasPrefix(cm.Name, writtenPrefix) {
			held[cm.Name] = 1 // created twice, it would have been refused
		}
		for i, acknowledged := range w.counts {
			if cm.Name != counterName(i) {
				continue
			}
			n, err := strconv.Atoi(cm.Data["n"])
			if err != nil {
				return fmt.Errorf("%s: %w", cm.Name, err)
			}
			found = append(found, check.Counter(cm.Name, n, acknowledged, 0)...)
		}
	}
	if found = append(found, check.Set(adds, held)...); len(found) > 0 {
		return fmt.Errorf("%d anomalies, among them %v", len(found), found[:min(len(found), 10)])
	}
	return nil
}
