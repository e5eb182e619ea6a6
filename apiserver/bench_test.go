package apiserver

import (
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"kontiki/raftstore/raftstoretest"
)

// idleTime is how long a server is left alone before its memory is looked at.
const idleTime = 5 * time.Second

// BenchmarkServer starts a store and an API server alone in this process, and tells
// how long that took and what memory they need when nobody uses them. It is run
// once: what an earlier server left would count, too.
func BenchmarkServer(b *testing.B) {
	if b.N > 1 {
		b.Fatal("this is measured in a process that has done nothing else: use -benchtime 1x or 1s")
	}
	began := time.Now()
	s := startServer(b, raftstoretest.New(b))
	client, err := rest.HTTPClientFor(s.Client(admin))
	if err != nil {
		b.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; <-time.After(time.Millisecond) {
		resp, err := client.Get("http://kontiki/readyz")
		if err != nil {
			b.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			b.Fatal(err)
		}
		if resp.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			b.Fatal("the server is not ready after a minute")
		}
	}
	b.ReportMetric(time.Since(began).Seconds(), "s-ready")
	<-time.After(idleTime)
	debug.FreeOSMemory() // as a node does after its start
	b.ReportMetric(residentMB(b, "VmRSS"), "MB")
	b.ReportMetric(residentMB(b, "RssAnon"), "MB-anonymous")
}

// residentMB is a line of this process's status in MB.
func residentMB(b *testing.B, name string) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kb float64
		if _, err := fmt.Sscanf(line, name+": %f kB", &kb); err == nil {
			return kb * 1024 / 1e6
		}
	}
	b.Fatalf("no %s in /proc/self/status", name)
	return 0
}
