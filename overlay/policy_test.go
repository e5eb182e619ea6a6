package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kontiki/overlay/datapath"
)

func (l *lab) changeService(name string, change func(*corev1.Service)) {
	l.t.Helper()
	services := l.client.CoreV1().Services("default")
	svc, err := services.Get(l.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	change(svc)
	if _, err := services.Update(l.t.Context(), svc, metav1.UpdateOptions{}); err != nil {
		l.t.Fatal(err)
	}
}

// TestSessionAffinity: a client stays with its endpoint as long as that is one,
// over a restart of the node, too, and moves when it is gone.
func TestSessionAffinity(t *testing.T) {
	l := newLab(t, 2)
	byName := map[string]*labPod{}
	var pods []*labPod
	for i := range 4 {
		p := l.nodes[i%2].pod()
		echoTCP(t, p.ns, p.uid, 80)
		byName[p.uid] = p
		pods = append(pods, p)
	}
	client := l.nodes[0].pod()
	outside, _ := l.host(99)
	slice := l.expose("web", "10.43.0.20", 30080, pods...)
	l.changeService("web", func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](3600)}}
	})
	inside := func() (string, error) { s, _, err := askTCP(client.ns, "10.43.0.20:80"); return s, err }
	stays := func(ask func() (string, error)) (string, error) {
		first, err := ask()
		if err != nil {
			return "", err
		}
		for range 20 {
			if got, err := ask(); err != nil || got != first {
				return "", fmt.Errorf("%s answered after %s, %v", got, first, err)
			}
		}
		return first, nil
	}
	var first string
	eventually(t, "one endpoint answers a client", func() (err error) { first, err = stays(inside); return err })
	for _, n := range l.nodes {
		eventually(t, "one endpoint answers at the node port of "+n.name, func() error {
			_, err := stays(func() (string, error) { s, _, err := askTCP(outside, at(n.addr, 30080)); return s, err })
			return err
		})
	}
	l.nodes[0].stop()
	l.nodes[0].start()
	eventually(t, "all Services are programmed again", func() error {
		if !l.nodes[0].net.watcher.Started() {
			return errors.New("not yet")
		}
		return nil
	})
	if again, err := stays(inside); err != nil || again != first {
		t.Errorf("after a restart %s answers instead of %s, %v", again, first, err)
	}
	var rest []*labPod
	for _, p := range pods {
		if p.uid != first {
			rest = append(rest, p)
		}
	}
	slice.Endpoints = l.slice("web", rest...).Endpoints
	l.update(slice)
	eventually(t, "another endpoint answers after the first is gone", func() error {
		next, err := stays(inside)
		if err == nil && next == first {
			err = errors.New("the first still answers")
		}
		return err
	})
}

func TestNodePortOnLoopback(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0].pod(), l.nodes[1].pod()
	echoTCP(t, a.ns, a.uid, 80)
	echoTCP(t, b.ns, b.uid, 80)
	l.expose("web", "10.43.0.20", 30080, a, b)
	eventually(t, "all endpoints answer at 127.0.0.1", answered(func() (string, error) {
		s, _, err := askTCP(l.nodes[0].ns, "127.0.0.1:30080")
		return s, err
	}, a.uid, b.uid))
}

// TestNoNodePortOnLoopbackWithoutATunnel: packets would have to leave by a device
// that is not ours to configure. It is refused always, not now and then.
func TestNoNodePortOnLoopbackWithoutATunnel(t *testing.T) {
	l := newLabWith(t, 2, datapath.HostGateway)
	a, b := l.nodes[0].pod(), l.nodes[1].pod()
	echoTCP(t, a.ns, a.uid, 80)
	echoTCP(t, b.ns, b.uid, 80)
	l.expose("web", "10.43.0.20", 30080, a, b)
	ask := func(to string) func() (string, error) {
		return func() (string, error) { s, _, err := askTCP(l.nodes[0].ns, to); return s, err }
	}
	eventually(t, "all endpoints answer at the node's own address", answered(ask(at(l.nodes[0].addr, 30080)), a.uid, b.uid))
	for range 10 {
		if err := refused(ask("127.0.0.1:30080"))(); err != nil {
			t.Error(err)
		}
	}
}

func TestExternalPolicyLocal(t *testing.T) {
	l := newLab(t, 2)
	a := l.nodes[0].pod()
	echoTCP(t, a.ns, a.uid, 80)
	l.expose("web", "10.43.0.20", 30080, a)
	l.changeService("web", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.HealthCheckNodePort = 32000
		for _, n := range l.nodes {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: n.addr.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeProxy)})
		}
	})
	outside, address := l.host(99)
	for _, port := range []uint16{30080, 80} {
		eventually(t, fmt.Sprintf("the client's own address is seen at port %d", port), func() error {
			server, seen, err := askTCP(outside, at(l.nodes[0].addr, port))
			if err == nil && (server != a.uid || seen != address.String()) {
				err = fmt.Errorf("%s saw %s", server, seen)
			}
			return err
		})
		eventually(t, "the node without endpoints refuses", refused(func() (string, error) {
			s, _, err := askTCP(outside, at(l.nodes[1].addr, port))
			return s, err
		}))
	}
	health := func(n *labNode, want int, body string) {
		t.Helper()
		eventually(t, "the health check of "+n.name, func() error {
			var conn net.Conn
			client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, _, to string) (_ net.Conn, err error) {
				conn, err = dialIn(outside, "tcp4", to, time.Second)
				return conn, err
			}}}
			resp, err := client.Get("http://" + at(n.addr, 32000) + "/healthz")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err == nil && (resp.StatusCode != want || string(got) != body+"\n") {
				err = fmt.Errorf("%d %s", resp.StatusCode, got)
			}
			return err
		})
	}
	health(l.nodes[0], 200, `{"localEndpoints":1,"service":{"name":"web","namespace":"default"},"serviceProxyHealthy":true}`)
	health(l.nodes[1], 503, `{"localEndpoints":0,"service":{"name":"web","namespace":"default"},"serviceProxyHealthy":true}`)
	l.changeService("web", func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 0 })
	eventually(t, "the health check's port is closed", refused(func() (string, error) {
		s, _, err := askTCP(outside, at(l.nodes[0].addr, 32000))
		return s, err
	}))
}

// TestLoadBalancerSourceRanges: only clients of the networks named are let in at a load
// balancer's address, be they pods, nodes or others; the other ways stay open to all.
func TestLoadBalancerSourceRanges(t *testing.T) {
	l := newLab(t, 2)
	server, client := l.nodes[1].pod(), l.nodes[0].pod()
	echoTCP(t, server.ns, server.uid, 80)
	echoUDP(t, server.ns, server.uid, 53)
	l.expose("web", "10.43.0.20", 30080, server)
	near, nearAddr := l.host(90)
	far, farAddr := l.host(99)
	one := func(a netip.Addr) string { return netip.PrefixFrom(a, 32).String() }
	front := l.nodes[0].addr
	letIn := func(ranges ...string) {
		t.Helper()
		l.changeService("web", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.LoadBalancerSourceRanges = corev1.ServiceTypeLoadBalancer, ranges
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: front.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeProxy)}}
		})
	}
	tcp := func(ns netns.NsHandle, to string) error {
		c, err := dialIn(ns, "tcp4", to, 300*time.Millisecond)
		if err == nil {
			c.Close()
		}
		return err
	}
	open := func(who string, ns netns.NsHandle, to string) {
		t.Helper()
		eventually(t, who+" is let in at "+to, func() error { return tcp(ns, to) })
	}
	dropped := func(who string, ns netns.NsHandle, to string) {
		t.Helper()
		eventually(t, who+" hears nothing at "+to, func() error {
			if err := tcp(ns, to); !os.IsTimeout(err) {
				return fmt.Errorf("%v, want silence", err)
			}
			return nil
		})
	}
	balanced := at(front, 80)

	letIn()
	open("anybody", far, balanced)
	letIn(one(nearAddr), "10.42.1.0/24")
	dropped("a client of no range", far, balanced)
	open("a client of a range", near, balanced)
	open("a pod of a range", client.ns, balanced)
	dropped("a node of no range", l.nodes[0].ns, balanced)
	dropped("another node of no range", l.nodes[1].ns, balanced)
	open("a client of no range, at the node's port", far, at(front, 30080))
	open("a node of no range, at the cluster's address", l.nodes[0].ns, "10.43.0.20:80")
	if _, _, _, err := askUDP(near, at(front, 53), 10, false); err != nil {
		t.Errorf("UDP of a client of a range: %v", err)
	}
	c, err := dialIn(far, "udp4", at(front, 53), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("UDP of a client of no range: %v, want silence", err)
	}

	// Whoever shares the address of a network but is not in it stays out.
	letIn(netip.PrefixFrom(farAddr, 30).Masked().String(), "192.168.77.88/32")
	open("a client of a range", far, balanced)
	dropped("a client of no range", near, balanced)
	letIn(one(front))
	open("the node, by its own address", l.nodes[0].ns, balanced)
	dropped("a pod of no range", client.ns, balanced)
}
