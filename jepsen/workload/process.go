package workload

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"kontiki/jepsen/history"
)

// How long a client waits for an answer. Reads are given up early, so that one that is
// sent to a node which is paused, or cut off, is soon followed by one that was sent
// later: what the node answers then has to be as new.
const (
	readTime  = time.Second
	writeTime = 8 * time.Second
	dialTime  = time.Second
)

// client is an API client of one node with a connection of its own.
type client struct {
	rest rest.Interface
	api  kubernetes.Interface

	clock  func() time.Duration // since the run began
	silent int64                // when the first call was made that brought no answer, 0 if the last one did

	mu    sync.Mutex
	conns []net.Conn // those that may be open
}

func (r *Run) client(_ Workload, node Node) (*client, error) {
	c := &client{clock: func() time.Duration { return time.Since(r.Recorder.Began()) }}
	config := rest.CopyConfig(node.Config)
	config.Host = "https://" + node.Name + ":6443"
	config.QPS, config.Burst = -1, -1
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.UserAgent = "kontiki-jepsen"
	config.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		dialer := net.Dialer{Timeout: dialTime}
		conn, err := dialer.DialContext(ctx, network, net.JoinHostPort(node.Address(), "6443"))
		if err == nil {
			c.mu.Lock()
			c.conns = append(c.conns, conn)
			c.mu.Unlock()
		}
		return conn, err
	}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	c.api, c.rest = api, api.CoreV1().RESTClient()
	return c, nil
}

// silence is for how long a client stays at a connection that brings nothing: what was sent
// to a node that is paused is answered when it goes on, and has to be answered as by one
// that was not.
const silence = 3 * time.Second

// heard takes into account whether a call brought an answer. Since then is when it was sent.
func (c *client) heard(something bool, then int64) {
	switch {
	case something:
		c.silent = 0
	case c.silent == 0:
		c.silent = then
	}
	if c.silent != 0 && int64(c.clock())-c.silent >= int64(silence) {
		c.silent = 0
		c.hangUp()
	}
}

// hangUp closes the client's connections. Over one to a node that has moved, or has no
// power any more, no answer comes, and no end either.
func (c *client) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// process is a client that does one thing at a time and has it written down.
type process struct {
	*client
	run       *Run
	workload  string
	namespace string
	node      string
	number    int
	pad       string // what values have beside them, for their size
	slow      bool   // it does not keep up with its watches
	reads     bool   // it reads more than it writes, since a write may keep it waiting for long
	chance    *rand.Rand
	written   int // values so far
}

func (r *Run) process(w Workload, node Node) (*process, error) {
	c, err := r.client(w, node)
	if err != nil {
		return nil, err
	}
	number := int(r.processes.Add(1))
	return &process{
		client: c, run: r, workload: w.Name, namespace: w.namespace(), node: node.Name, number: number,
		chance: rand.New(rand.NewPCG(r.Seed, uint64(number))),
	}, nil
}

// value is one that nobody ever writes again.
func (p *process) value() string {
	p.written++
	return "p" + strconv.Itoa(p.number) + "-" + strconv.Itoa(p.written)
}

// do asks for something and writes down that, and what came of it. It returns what came.
func (p *process) do(ctx context.Context, e history.Event, limit time.Duration, ask func(context.Context, *history.Event) error) history.Event {
	e.Process, e.Node, e.Workload, e.Type = p.number, p.node, p.workload, history.Invoke
	e = p.run.Recorder.Record(e)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer := history.Event{Process: e.Process, Node: e.Node, Workload: e.Workload, F: e.F, Key: e.Key}
	err := ask(ctx, &answer)
	answer.Type, answer.Refused = outcome(err, e)
	if err != nil && answer.Refused == "" {
		answer.Error = err.Error()
	}
	p.heard(!noAnswer(err), e.Time)
	p.run.told(answer.Revision)
	return p.run.Recorder.Record(answer)
}

func (p *process) configMaps(r *rest.Request) *rest.Request {
	return r.Namespace(p.namespace).Resource("configmaps").MaxRetries(0)
}

// dataKey is where a ConfigMap has its value, padKey what makes it large.
const (
	dataKey = "value"
	padKey  = "pad"
)

func (p *process) object(name, value string, revision uint64) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: p.data(value)}
	if revision != 0 {
		cm.ResourceVersion = strconv.FormatUint(revision, 10)
	}
	return cm
}

func (p *process) data(value string) map[string]string {
	data := map[string]string{dataKey: value}
	if p.pad != "" {
		data[padKey] = p.pad
	}
	return data
}

// answered takes an object into an answer.
func answered(answer *history.Event, cm *corev1.ConfigMap) (err error) {
	answer.Value = cm.Data[dataKey]
	answer.Revision, err = strconv.ParseUint(cm.ResourceVersion, 10, 64)
	return err
}

// read reads an object: the latest.
func (p *process) read(ctx context.Context, key string) history.Event {
	return p.do(ctx, history.Event{F: "read", Key: key}, readTime, func(ctx context.Context, answer *history.Event) error {
		var cm corev1.ConfigMap
		if err := p.configMaps(p.rest.Get()).Name(key).Do(ctx).Into(&cm); err != nil {
			return err
		}
		return answered(answer, &cm)
	})
}

// list reads all objects. Level is the resourceVersion that is asked for.
func (p *process) list(ctx context.Context, f, level string) history.Event {
	return p.do(ctx, history.Event{F: f, Level: level}, readTime, func(ctx context.Context, answer *history.Event) error {
		request := p.configMaps(p.rest.Get())
		if level != "" {
			request = request.Param("resourceVersion", level).Param("resourceVersionMatch", "NotOlderThan")
		}
		var list corev1.ConfigMapList
		if err := request.Do(ctx).Into(&list); err != nil {
			return err
		}
		answer.Items = []history.Item{}
		for i := range list.Items {
			var one history.Event
			if list.Items[i].Name == rootCA {
				continue
			}
			if err := answered(&one, &list.Items[i]); err != nil {
				return err
			}
			answer.Items = append(answer.Items, history.Item{Key: list.Items[i].Name, Value: one.Value, Revision: one.Revision})
		}
		var err error
		answer.Revision, err = strconv.ParseUint(list.ResourceVersion, 10, 64)
		return err
	})
}

// rootCA is the ConfigMap that a controller puts into every namespace.
const rootCA = "kube-root-ca.crt"

func (p *process) create(ctx context.Context, key, value string) history.Event {
	return p.do(ctx, history.Event{F: "create", Key: key, Value: value}, writeTime, func(ctx context.Context, answer *history.Event) error {
		var cm corev1.ConfigMap
		if err := p.configMaps(p.rest.Post()).Timeout(writeTime).Body(p.object(key, value, 0)).Do(ctx).Into(&cm); err != nil {
			return err
		}
		return answered(answer, &cm)
	})
}

// update replaces an object if it is as it was seen.
func (p *process) update(ctx context.Context, key, value string, seen history.Item) history.Event {
	e := history.Event{F: "update", Key: key, Value: value, Expect: seen.Value, At: seen.Revision}
	return p.do(ctx, e, writeTime, func(ctx context.Context, answer *history.Event) error {
		var cm corev1.ConfigMap
		if err := p.configMaps(p.rest.Put()).Name(key).Timeout(writeTime).Body(p.object(key, value, seen.Revision)).Do(ctx).Into(&cm); err != nil {
			return err
		}
		return answered(answer, &cm)
	})
}

// patch changes an object; if seen is given, if it is as it was seen.
func (p *process) patch(ctx context.Context, key, value string, seen history.Item) history.Event {
	e := history.Event{F: "patch", Key: key, Value: value, Expect: seen.Value, At: seen.Revision}
	return p.do(ctx, e, writeTime, func(ctx context.Context, answer *history.Event) error {
		patch := map[string]any{"data": p.data(value)}
		if seen.Revision != 0 {
			patch["metadata"] = map[string]string{"resourceVersion": strconv.FormatUint(seen.Revision, 10)}
		}
		cm, err := p.mergePatch(ctx, key, patch)
		if err != nil {
			return err
		}
		return answered(answer, cm)
	})
}

func (p *process) mergePatch(ctx context.Context, key string, patch any) (*corev1.ConfigMap, error) {
	body, err := json.Marshal(patch)
	if err != nil {
		return nil, err
	}
	var cm corev1.ConfigMap
	return &cm, p.configMaps(p.rest.Patch(types.MergePatchType)).Name(key).Timeout(writeTime).Body(body).Do(ctx).Into(&cm)
}

// remove deletes an object; if seen is given, if it is as it was seen.
func (p *process) remove(ctx context.Context, key string, seen history.Item) history.Event {
	e := history.Event{F: "delete", Key: key, Expect: seen.Value, At: seen.Revision}
	return p.do(ctx, e, writeTime, func(ctx context.Context, _ *history.Event) error {
		options := &metav1.DeleteOptions{}
		if seen.Revision != 0 {
			revision := strconv.FormatUint(seen.Revision, 10)
			options.Preconditions = &metav1.Preconditions{ResourceVersion: &revision}
		}
		return p.configMaps(p.rest.Delete()).Name(key).Timeout(writeTime).Body(options).Do(ctx).Error()
	})
}
