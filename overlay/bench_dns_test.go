package overlay

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	askers    = 4 // questions under way
	askingFor = 3 * time.Second
)

// BenchmarkDNS has another process ask the node's server from inside a pod, among
// 10,000 Services. Answers are counted by the CPU time that this process, the
// server's, has used: so it is one core's work, whatever else the machine does.
func BenchmarkDNS(b *testing.B) {
	const inside = "KONTIKI_OVERLAY_BENCH_ASKS_FROM"
	if pod := os.Getenv(inside); pod != "" {
		askForAWhile(b, pod)
		return
	}
	l := newLab(b, 1)
	p := l.nodes[0].pod()
	for i := range 10_000 {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("web-", i)}}
		svc.Spec.ClusterIP = fmt.Sprintf("10.43.%d.%d", 1+i>>8, i&255)
		if err := l.nodes[0].net.objects.services.GetStore().Add(svc); err != nil {
			b.Fatal(err)
		}
	}
	c, err := dialIn(p.ns, "udp4", at(labDNS, 53), time.Second)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	eventually(b, "DNS answers", func() error { return ask(c, question(b, 7)) })
	before, used := l.nodes[0].net.dns.Stats().Questions, cpuTime(b)
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkDNS$", "-test.benchtime=1x")
	cmd.Env = append(os.Environ(), inside+"="+path(p.ns))
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("asking: %v: %s", err, out)
	}
	answers, seconds := l.nodes[0].net.dns.Stats().Questions-before, (cpuTime(b) - used).Seconds()
	var p50, p99 float64
	if _, err := fmt.Sscanf(string(out), "%f %f", &p50, &p99); err != nil {
		b.Fatalf("the process that asks said %q: %v", out, err)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(answers)/seconds, "answers/s")
	b.ReportMetric(p50, "p50-ms")
	b.ReportMetric(p99, "p99-ms")
}

func question(tb testing.TB, i int) []byte {
	packed, err := new(dns.Msg).SetQuestion(fmt.Sprintf("web-%d.default.svc.cluster.local.", i%10_000), dns.TypeA).Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return packed
}

// askForAWhile is the other process: it says the median and the 99th percentile of
// how long answers took, in milliseconds.
func askForAWhile(b *testing.B, pod string) {
	ns, err := netns.GetFromPath(pod)
	if err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	for asker := range askers {
		wg.Go(func() {
			c, err := dialIn(ns, "udp4", at(labDNS, 53), time.Second)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			var mine []time.Duration
			for i, began := 0, time.Now(); time.Since(began) < askingFor; i++ {
				q, start := question(b, 100*asker+i), time.Now()
				if err := ask(c, q); err != nil {
					b.Error(err)
					return
				}
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	wg.Wait()
	slices.Sort(took)
	if len(took) > 0 {
		fmt.Printf("%f %f\n", took[len(took)/2].Seconds()*1e3, took[len(took)*99/100].Seconds()*1e3)
	}
}

func ask(c net.Conn, packed []byte) error {
	if _, err := c.Write(packed); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err := c.Read(make([]byte, 512))
	return err
}

// cpuTime is what this process has used.
func cpuTime(tb testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
