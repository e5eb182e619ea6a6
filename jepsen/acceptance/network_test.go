package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/jepsen/lab"
)

// question and answer are what examples/probe reads and writes.
type question struct {
	Kind  string `json:"kind"`
	To    string `json:"to"`
	Size  int    `json:"size,omitempty"`
	Whole bool   `json:"whole,omitempty"`
	Libc  bool   `json:"libc,omitempty"`
}

type reply struct {
	Server, Client string
	Addrs          []string
	Error          string
}

func (q question) String() string {
	return fmt.Sprintf("%s to %s, %d bytes, whole %v, libc %v", q.Kind, q.To, q.Size, q.Whole, q.Libc)
}

// prober is a place to ask from.
type prober struct {
	name string
	ask  func(context.Context, []question) ([]reply, error)
}

// probes makes the image of examples/probe, loads it on every host and returns the
// path of the program.
func (c *cluster) probes(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	program := filepath.Join(root, "probe")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "netcgo",
		"-ldflags", "-s -w -linkmode external -extldflags -static", "-o", program, "../../examples/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v\n%s", err, out)
	}
	archive := filepath.Join(dir, "probe.tar")
	if out, err := exec.CommandContext(t.Context(), c.bin, "image", "import", root,
		"--name", "kontiki.local/probe:v1", "--entrypoint", "/probe,serve", "--output", archive).CombinedOutput(); err != nil {
		t.Fatalf("making the probe's image: %v\n%s", err, out)
	}
	c.onEvery(t, "image", "load", archive)
	return program
}

func asJSON(questions []question) []byte {
	raw, err := json.Marshal(questions)
	if err != nil {
		panic("acceptance: questions do not encode: " + err.Error())
	}
	return raw
}

// fromNode asks from a host, fromHere from the machine that the hosts are on.
func fromNode(h *lab.Host, program string) prober {
	return prober{"node " + h.Name, func(ctx context.Context, questions []question) ([]reply, error) {
		return onHost(ctx, h, questions, program, "ask")
	}}
}

func onHost(ctx context.Context, h *lab.Host, questions []question, command ...string) ([]reply, error) {
	var out, errs bytes.Buffer
	if err := h.Exec(ctx, bytes.NewReader(asJSON(questions)), &out, &errs, command[0], command[1:]...); err != nil {
		return nil, fmt.Errorf("%w: %s", err, errs.String())
	}
	var replies []reply
	return replies, json.Unmarshal(out.Bytes(), &replies)
}

func fromHere(program string) prober {
	return prober{"the machine outside", func(ctx context.Context, questions []question) ([]reply, error) {
		cmd := exec.CommandContext(ctx, program, "ask")
		cmd.Stdin = bytes.NewReader(asJSON(questions))
		out, err := cmd.Output()
		if err != nil {
			return nil, err
		}
		var replies []reply
		return replies, json.Unmarshal(out, &replies)
	}}
}

// expectation is a question and what must come of it.
type expectation struct {
	question
	server []string // any of them; nil: any
	client string   // "": any
	addrs  []string
	fails  bool
}

// expect asks all and compares.
func (p prober) expect(ctx context.Context, all []expectation) error {
	var questions []question
	for _, e := range all {
		questions = append(questions, e.question)
	}
	replies, err := p.ask(ctx, questions)
	if err != nil {
		return fmt.Errorf("asking from %s: %w", p.name, err)
	}
	if len(replies) != len(all) {
		return fmt.Errorf("%s answered %d of %d questions", p.name, len(replies), len(all))
	}
	var errs []error
	for i, e := range all {
		if err := e.check(replies[i]); err != nil {
			errs = append(errs, fmt.Errorf("from %s: %s: %w", p.name, e.question, err))
		}
	}
	return errors.Join(errs...)
}

func (e expectation) check(r reply) error {
	switch {
	case e.fails != (r.Error != ""):
		return fmt.Errorf("%+v", r)
	case e.fails:
		return nil
	case e.server != nil && !slices.Contains(e.server, r.Server):
		return fmt.Errorf("%s answered, not %v", r.Server, e.server)
	case e.client != "" && e.client != r.Client:
		return fmt.Errorf("the other side saw %s, not %s", r.Client, e.client)
	case e.addrs != nil && !slices.Equal(e.addrs, r.Addrs):
		return fmt.Errorf("it is %v, not %v", r.Addrs, e.addrs)
	}
	return nil
}

// TestNetwork tries every kind of way through the pod network of a cluster.
func TestNetwork(t *testing.T) {
	c := newCluster(t, "net", 3)
	program := c.probes(t)
	n1 := c.Hosts()[0]
	c.kubectl(t, n1, "apply", "-f", filepath.Join("testdata", "network.yaml"))
	client := c.client(t, n1)
	var pods []corev1.Pod
	c.eventually(t, "two ready pods on every node", func(ctx context.Context) (err error) {
		if pods, err = readyPods(ctx, client, "app=probe"); err == nil && len(pods) != 6 {
			err = fmt.Errorf("%d pods are ready", len(pods))
		}
		return err
	})
	n := network{cluster: c, program: program, tunnel: true, outside: fromHere(program)}
	for _, pod := range pods {
		n.pods = append(n.pods, pod)
		n.names = append(n.names, pod.Name)
	}
	for _, h := range c.Hosts() {
		n.nodes = append(n.nodes, fromNode(h, program))
	}
	c.eventually(t, "Services to be programmed", func(ctx context.Context) (err error) {
		if n.services, err = c.serviceAddresses(ctx, t); err != nil {
			return err
		}
		return n.nodes[2].expect(ctx, []expectation{{question: question{Kind: "tcp", To: n.services["probe"] + ":7000"}}})
	})
	t.Run("pod to pod, every pair, every size", n.podToPod)
	t.Run("Services from pods, nodes and outside", n.toServices)
	t.Run("a Service of a further range", n.furtherRange)
	t.Run("session affinity", n.stick)
	t.Run("a load balancer of nodes", n.loadBalancer)
	t.Run("the way out", n.wayOut)
	t.Run("host ports", n.hostPorts)
	t.Run("names", n.lookups)
	t.Run("names, asked by a program of Debian", n.stranger)
	t.Run("names of a stub domain", n.stubDomain)
	t.Run("what is removed by hand", n.sabotage)
	t.Run("taken down", n.tearDown)
}

type network struct {
	*cluster
	program  string
	tunnel   bool // leads to other nodes; else these are each other's gateways
	pods     []corev1.Pod
	names    []string // of pods
	nodes    []prober
	outside  prober
	services map[string]string // cluster addresses by name
}

func (c *cluster) serviceAddresses(ctx context.Context, t *testing.T) (map[string]string, error) {
	list, err := c.client(t, c.Hosts()[0]).CoreV1().Services("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, s := range list.Items {
		out[s.Name] = s.Spec.ClusterIP
	}
	return out, nil
}

// prober asks from inside a pod, through the node that it is on: the machine
// outside has no route to pods.
func (n *network) prober(pod corev1.Pod) prober {
	return prober{"pod " + pod.Name + " on " + pod.Spec.NodeName, func(ctx context.Context, questions []question) ([]reply, error) {
		h, err := n.Host(pod.Spec.NodeName)
		if err != nil {
			return nil, err
		}
		return onHost(ctx, h, questions, n.program, "ask", "http://"+pod.Status.PodIP+":8080/ask")
	}}
}

func (n *network) must(t *testing.T, p prober, all []expectation) {
	t.Helper()
	if err := p.expect(t.Context(), all); err != nil {
		t.Error(err)
	}
}

func (n *network) podToPod(t *testing.T) {
	mtu := 1500
	if n.tunnel {
		mtu -= 50
	}
	for _, from := range n.pods {
		var all []expectation
		for _, to := range n.pods {
			at, client := to.Status.PodIP+":7000", from.Status.PodIP
			all = append(all,
				expectation{question: question{Kind: "tcp", To: at, Size: 200_000}, server: []string{to.Name}, client: client},
				expectation{question: question{Kind: "udp", To: at, Size: 4000}, server: []string{to.Name}, client: client},
				expectation{question: question{Kind: "ping", To: to.Status.PodIP, Size: 4000}})
			if from.Name == to.Name {
				continue // over lo, which has another MTU
			}
			for _, size := range []int{100, mtu - 1, mtu, mtu + 1} {
				all = append(all,
					expectation{question: question{Kind: "udp", To: at, Size: size - 28, Whole: true}, server: []string{to.Name}, client: client, fails: size > mtu},
					expectation{question: question{Kind: "ping", To: to.Status.PodIP, Size: size, Whole: true}, fails: size > mtu})
			}
		}
		n.must(t, n.prober(from), all)
	}
}

func (n *network) fromPodsAndNodes() []prober {
	var out []prober
	for _, pod := range n.pods {
		out = append(out, n.prober(pod))
	}
	return append(out, n.nodes...)
}

func (n *network) toServices(t *testing.T) {
	tcp := func(to string, servers ...string) expectation {
		return expectation{question: question{Kind: "tcp", To: to, Size: 100_000}, server: servers}
	}
	udp := func(to string, servers ...string) expectation {
		return expectation{question: question{Kind: "udp", To: to, Size: 500}, server: servers}
	}
	var inside, outside []expectation
	// Often enough that pods reach themselves, too.
	for range 6 {
		inside = append(inside, tcp(n.services["probe"]+":7000", n.names...), udp(n.services["probe"]+":7000", n.names...))
	}
	inside = append(inside, tcp("203.0.113.7:7000", n.names...), udp("203.0.113.7:7000", n.names...))
	for _, h := range n.Hosts() {
		for _, at := range []netip.AddrPort{netip.AddrPortFrom(h.Addr, 30700)} {
			outside = append(outside, tcp(at.String(), n.names...), udp(at.String(), n.names...))
		}
		var local []string
		for _, pod := range n.pods {
			if pod.Spec.NodeName == h.Name {
				local = append(local, pod.Name)
			}
		}
		kept := tcp(netip.AddrPortFrom(h.Addr, 30701).String(), local...)
		outside = append(outside, kept)
	}
	for _, node := range n.nodes {
		atLoopback := []expectation{tcp("127.0.0.1:30700", n.names...), udp("127.0.0.1:30700", n.names...)}
		for i := range atLoopback {
			atLoopback[i].fails = !n.tunnel
		}
		n.must(t, node, atLoopback)
	}
	inside = append(inside, tcp(n.services["nobody"]+":7000"))
	inside[len(inside)-1].fails = true
	for _, p := range n.fromPodsAndNodes() {
		n.must(t, p, inside)
	}
	for _, p := range append(n.fromPodsAndNodes(), n.outside) {
		n.must(t, p, outside)
	}
	// Policy Local keeps the address of who asks from outside.
	for _, h := range n.Hosts() {
		n.must(t, n.outside, []expectation{{question: question{Kind: "tcp", To: netip.AddrPortFrom(h.Addr, 30701).String()}, client: n.gateway()}})
	}
}

// stick has each place ask several times: one pod answers, not always the same.
func (n *network) stick(t *testing.T) {
	answered := map[string]bool{}
	for _, p := range n.fromPodsAndNodes() {
		replies, err := p.ask(t.Context(), slices.Repeat([]question{{Kind: "tcp", To: n.services["sticky"] + ":7000"}}, 10))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range replies {
			if r.Error != "" || r.Server != replies[0].Server {
				t.Errorf("from %s: %+v after %+v", p.name, r, replies[0])
			}
		}
		answered[replies[0].Server] = true
	}
	if len(answered) < 2 {
		t.Errorf("nine clients were all answered by %v", answered)
	}
}

// loadBalancer waits for the nodes' addresses in the Service, and asks there.
func (n *network) loadBalancer(t *testing.T) {
	client := n.client(t, n.Hosts()[0])
	var want []string
	for _, h := range n.Hosts() {
		want = append(want, h.Addr.String())
	}
	slices.Sort(want)
	n.eventually(t, "the nodes' addresses in the Service", func(ctx context.Context) error {
		s, err := client.CoreV1().Services("default").Get(ctx, "local", metav1.GetOptions{})
		if err != nil {
			return err
		}
		var got []string
		for _, i := range s.Status.LoadBalancer.Ingress {
			got = append(got, i.IP)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("they are %v", got)
		}
		return nil
	})
	s, err := client.CoreV1().Services("default").Get(t.Context(), "local", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range want {
		// What a balancer in front of the nodes would ask them.
		resp, err := http.Get(fmt.Sprintf("http://%s:%d/healthz", at, s.Spec.HealthCheckNodePort))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"localEndpoints":2`) {
			t.Errorf("the health check at %s answers %s: %s, %v", at, resp.Status, body, err)
		}
		ask := []expectation{{question: question{Kind: "tcp", To: at + ":7001"}, server: n.names, client: n.gateway()}}
		n.eventually(t, "an answer at "+at, func(ctx context.Context) error { return n.outside.expect(ctx, ask) })
		for _, p := range n.fromPodsAndNodes() {
			n.must(t, p, []expectation{{question: question{Kind: "tcp", To: at + ":7001", Size: 10_000}, server: n.names}})
		}
	}
}

// furtherRange has a Service with an address of a range that was added later: hosts have no
// other way there.
func (n *network) furtherRange(t *testing.T) {
	client := n.client(t, n.Hosts()[0])
	cidr := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "further"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.99.0.0/24"}}}
	if _, err := client.NetworkingV1().ServiceCIDRs().Create(t.Context(), cidr, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "further"}, Spec: corev1.ServiceSpec{
		ClusterIP: "10.99.0.7", Selector: map[string]string{"app": "probe"},
		Ports: []corev1.ServicePort{{Name: "tcp", Port: 7000}, {Name: "udp", Port: 7000, Protocol: corev1.ProtocolUDP}},
	}}
	services := client.CoreV1().Services("default")
	if _, err := services.Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ask := []expectation{
		{question: question{Kind: "tcp", To: "10.99.0.7:7000", Size: 10_000}, server: n.names},
		{question: question{Kind: "udp", To: "10.99.0.7:7000"}, server: n.names},
		{question: question{Kind: "tcp", To: "10.99.0.8:7000"}, fails: true},
	}
	for _, p := range n.fromPodsAndNodes() {
		n.eventually(t, "the Service to be reached from "+p.name, func(ctx context.Context) error { return p.expect(ctx, ask) })
	}
	for _, pod := range n.pods {
		n.must(t, n.prober(pod), []expectation{{question: question{Kind: "lookup", To: "further"}, addrs: []string{"10.99.0.7"}}})
	}
	if err := services.Delete(t.Context(), "further", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.NetworkingV1().ServiceCIDRs().Delete(t.Context(), "further", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.eventually(t, "the way to the range to be gone", func(context.Context) error {
		for _, h := range n.Hosts() {
			if lines := n.kernelOf(t, h); slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "route 10.99.0.0/24") }) {
				return fmt.Errorf("%s has it", h.Name)
			}
		}
		return nil
	})
}

// network is the lab's network.
func (c *cluster) network() netip.Prefix { return netip.PrefixFrom(c.Hosts()[0].Addr, 24).Masked() }

// gateway is the machine's own address on the lab's network.
func (c *cluster) gateway() string { return c.network().Addr().Next().String() }

// startEcho serves one line with the client's address, and what it gets.
func startEcho(t *testing.T, address string) (at string) {
	t.Helper()
	l, err := net.Listen("tcp4", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				fmt.Fprintf(conn, "outside %s\n", conn.RemoteAddr().(*net.TCPAddr).IP)
				io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

// wayOut has pods talk to the machine outside, which sees the node's address.
func (n *network) wayOut(t *testing.T) {
	server := startEcho(t, n.gateway())
	for _, pod := range n.pods {
		h, err := n.Host(pod.Spec.NodeName)
		if err != nil {
			t.Fatal(err)
		}
		n.must(t, n.prober(pod), []expectation{{question: question{Kind: "tcp", To: server, Size: 100_000}, client: h.Addr.String()}})
	}
}

func (n *network) hostPorts(t *testing.T) {
	client := n.client(t, n.Hosts()[0])
	var pod corev1.Pod
	n.eventually(t, "the pod with a host port", func(ctx context.Context) error {
		pods, err := readyPods(ctx, client, "app=hostport")
		if err == nil && len(pods) != 1 {
			err = errors.New("it is not ready")
		}
		if err == nil {
			pod = pods[0]
		}
		return err
	})
	h, err := n.Host(pod.Spec.NodeName)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(h.Addr, 7777).String()
	ask := []expectation{{question: question{Kind: "tcp", To: at}, server: []string{pod.Name}}, {question: question{Kind: "udp", To: at}, server: []string{pod.Name}}}
	for _, p := range append(n.fromPodsAndNodes(), n.outside, n.prober(pod)) {
		n.must(t, p, ask)
	}
}

// lookups asks by Go's resolver and by glibc's, as programs in containers do.
func (n *network) lookups(t *testing.T) {
	defer func() {
		if shown := n.kubectl(t, n.Hosts()[0], "get", "--raw", "/metrics"); !strings.Contains(shown, "\nkontiki_dns_questions_total ") {
			t.Error("/metrics does not count DNS questions")
		}
	}()
	var addrs []string
	for _, pod := range n.pods {
		addrs = append(addrs, pod.Status.PodIP)
	}
	slices.Sort(addrs)
	for _, pod := range n.pods[:3] {
		for _, libc := range []bool{false, true} {
			name := func(name string, want ...string) expectation {
				return expectation{question: question{Kind: "lookup", To: name, Libc: libc}, addrs: want, fails: want == nil}
			}
			n.must(t, n.prober(pod), []expectation{
				name("probe", n.services["probe"]), name("probe.default", n.services["probe"]),
				name("probe.default.svc", n.services["probe"]), name("probe.default.svc.cluster.local.", n.services["probe"]),
				name("alias", n.services["probe"]), name("nothing.default.svc.cluster.local."),
			})
			replies, err := n.prober(pod).ask(t.Context(), []question{{Kind: "lookup", To: "headless", Libc: libc}})
			if err != nil {
				t.Fatal(err)
			}
			got := slices.Sorted(slices.Values(replies[0].Addrs))
			if !slices.Equal(got, addrs) {
				t.Errorf("headless from %s, libc %v: %v, want %v (%s)", pod.Name, libc, got, addrs, replies[0].Error)
			}
		}
	}
}
