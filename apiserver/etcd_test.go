package apiserver

import (
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"

	"kontiki/raftstore/raftstoretest"
)

// etcdGoroutines are those that run code of an etcd client or of the gRPC
// connection below it. An open client always has some.
func etcdGoroutines() []string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	var found []string
	for _, g := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(g, "go.etcd.io/etcd") || strings.Contains(g, "google.golang.org/grpc") {
			found = append(found, g)
		}
	}
	return found
}

// TestNoEtcdClient serves every part of the chain and looks at all goroutines of
// the process. Packages of etcd's client are linked, because the library imports
// them; none may run. That the look would find a client is tested with one.
func TestNoEtcdClient(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	define(t, s, shipDefinition)
	ship := object(t, `{apiVersion: sea.example/v1, kind: Ship, metadata: {name: raft}}`)
	if _, err := dynamicOf(t, s).Resource(ships).Namespace("default").Create(t.Context(), ship, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	settled(t, s, "v1.sea.example")
	ready(t, s)
	for _, g := range etcdGoroutines() {
		t.Errorf("code of an etcd client runs:\n%s", g)
	}

	known, err := factory.CreateProber(storagebackend.Config{Transport: storagebackend.TransportConfig{ServerList: []string{greet(t)}}})
	if err != nil {
		t.Fatal(err)
	}
	defer known.Close()
	if len(etcdGoroutines()) == 0 {
		t.Error("an open etcd client is not found: this test proves nothing")
	}
}

// greet listens as somebody with whom a gRPC client believes to be connected: it
// sends an empty HTTP/2 SETTINGS frame and nothing else.
func greet(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0})
				io.Copy(io.Discard, conn)
			}()
		}
	}()
	return "http://" + listener.Addr().String()
}
