// Command probe looks at the network from inside: of a pod, where it serves and
// asks others when told to, of a node, or of any machine. Tests build it without
// shared libraries and with glibc's resolver beside Go's, so that one file is a
// whole image.
//
//	probe serve   answers TCP and UDP on 7000, and HTTP on 8080:
//	              GET / its name; POST /ask a list of questions in JSON
//	probe ask     reads the list from standard input instead
//	probe ask URL has that probe answer it
//	probe api PATH gets the path from the cluster's API as the account of the pod it
//	              is in; NAMESPACE in it is the pod's
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := errors.New("use: probe serve|ask|api")
	switch {
	case len(os.Args) == 2 && os.Args[1] == "serve":
		err = serve(ctx)
	case len(os.Args) == 2 && os.Args[1] == "ask":
		err = answerAll(os.Stdin, os.Stdout)
	case len(os.Args) == 3 && os.Args[1] == "ask":
		err = pass(ctx, os.Args[2], os.Stdin, os.Stdout)
	case len(os.Args) == 3 && os.Args[1] == "api":
		err = askAPI(ctx, os.Args[2], os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

const port = ":7000"

func serve(ctx context.Context) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp4", port)
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp4", port)
	if err != nil {
		return err
	}
	go serveTCP(tcp, name)
	go serveUDP(udp, name)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, name) })
	mux.HandleFunc("POST /ask", func(w http.ResponseWriter, r *http.Request) {
		if err := answerAll(r.Body, w); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	return server.Close()
}

// serveTCP sends a line with its name and the client's address, then what it gets.
func serveTCP(l net.Listener, name string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Minute))
			fmt.Fprintf(conn, "%s %s\n", name, conn.RemoteAddr().(*net.TCPAddr).IP)
			io.Copy(conn, conn)
		}()
	}
}

// serveUDP answers a datagram with its name, the client's address, and what it got.
func serveUDP(c net.PacketConn, name string) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo(fmt.Appendf(nil, "%s %s %d", name, from.(*net.UDPAddr).IP, n), from)
	}
}

// question is one thing to try.
type question struct {
	Kind string `json:"kind"`           // tcp, udp, ping, lookup
	To   string `json:"to"`             // address:port, address for ping, name for lookup
	Size int    `json:"size,omitempty"` // bytes to send; with tcp to and fro
	// Whole forbids to cut the datagram into fragments.
	Whole bool `json:"whole,omitempty"`
	// Libc looks a name up with glibc's getaddrinfo, not with Go's resolver.
	Libc bool `json:"libc,omitempty"`
}

// answer is what came of it.
type answer struct {
	Server string   `json:"server,omitempty"` // who answered
	Client string   `json:"client,omitempty"` // whom it saw
	Addrs  []string `json:"addrs,omitempty"`
	Error  string   `json:"error,omitempty"`
}

func answerAll(in io.Reader, out io.Writer) error {
	var questions []question
	if err := json.NewDecoder(in).Decode(&questions); err != nil {
		return err
	}
	answers := make([]answer, len(questions))
	for i, q := range questions {
		a, err := q.try()
		if err != nil {
			a.Error = err.Error()
		}
		answers[i] = a
	}
	return json.NewEncoder(out).Encode(answers)
}

// pass hands the questions to another probe.
func pass(ctx context.Context, url string, in io.Reader, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, in)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(out, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

func (q question) try() (answer, error) {
	switch q.Kind {
	case "tcp":
		return q.tryTCP()
	case "udp":
		return q.tryUDP()
	case "ping":
		return q.tryPing()
	case "lookup":
		return q.tryLookup()
	}
	return answer{}, fmt.Errorf("there is no question of kind %q", q.Kind)
}

const patience = 5 * time.Second

func (q question) tryTCP() (a answer, err error) {
	conn, err := net.DialTimeout("tcp4", q.To, patience)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * patience))
	line := make([]byte, 0, 128)
	for one := make([]byte, 1); len(line) < cap(line); line = append(line, one[0]) {
		if _, err := conn.Read(one); err != nil {
			return a, err
		}
		if one[0] == '\n' {
			break
		}
	}
	if _, err := fmt.Sscan(string(line), &a.Server, &a.Client); err != nil {
		return a, fmt.Errorf("%s said %q: %w", q.To, line, err)
	}
	if q.Size == 0 {
		return a, nil
	}
	go conn.Write(make([]byte, q.Size))
	_, err = io.CopyN(io.Discard, conn, int64(q.Size))
	return a, err
}

func (q question) tryUDP() (a answer, err error) {
	conn, err := net.Dial("udp4", q.To)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	if q.Whole {
		if err := forbidFragments(conn.(*net.UDPConn)); err != nil {
			return a, err
		}
	}
	return a, exchange(conn, make([]byte, max(1, q.Size)), func(got []byte) error {
		var n int
		if _, err := fmt.Sscan(string(got), &a.Server, &a.Client, &n); err != nil {
			return err
		}
		if n != max(1, q.Size) {
			return fmt.Errorf("%d bytes of %d arrived", n, q.Size)
		}
		return nil
	})
}

// exchange sends a packet until one comes back, a few times: datagrams get lost.
func exchange(conn net.Conn, packet []byte, take func([]byte) error) error {
	var err error
	buf := make([]byte, 1<<16)
	for range 3 {
		if _, err = conn.Write(packet); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(patience / 2))
		var n int
		if n, err = conn.Read(buf); err == nil {
			return take(buf[:n])
		}
	}
	return err
}

func (q question) tryLookup() (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	r := net.Resolver{PreferGo: !q.Libc}
	addrs, err := r.LookupHost(ctx, q.To)
	return answer{Addrs: addrs}, err
}
