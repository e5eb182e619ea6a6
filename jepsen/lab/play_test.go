package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the test binary plays on a host. Its words are read by the tests.

// Patience with silence: little where a test wants silence, since it costs its
// whole length there, and much where an answer has to come.
const (
	wantAnswer  = 20 * time.Second
	wantSilence = 300 * time.Millisecond
)

// playNode greets on TCP, and echoes on UDP.
func playNode([]string) error {
	listener, err := net.Listen("tcp", ":6443")
	if err != nil {
		return err
	}
	packets, err := net.ListenUDP("udp", &net.UDPAddr{Port: 6443})
	if err != nil {
		return err
	}
	if err := roomFor(packets); err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			packets.WriteTo(buf[:n], from)
		}
	}()
	fmt.Println("listening")
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		fmt.Fprint(conn, "hello from ", os.Getenv("KONTIKI_DATA_DIR"))
		conn.Close()
	}
}

// roomFor lets a socket keep all packets of a test while its reader gets no CPU: what
// overflows would count as lost on the way.
func roomFor(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	}); err != nil {
		return err
	}
	return serr
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// playDial prints what a host says on TCP.
func playDial(args []string) error {
	patience, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(args[0], "6443"), patience)
	if err != nil {
		return err
	}
	conn.SetDeadline(time.Now().Add(patience))
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// playEcho sends args[1] packets by UDP, one after the other, and prints how many
// different ones came back.
func playEcho(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	patience, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	conn, err := net.Dial("udp", net.JoinHostPort(args[0], "6443"))
	if err != nil {
		return err
	}
	if err := roomFor(conn.(*net.UDPConn)); err != nil {
		return err
	}
	seen := map[string]bool{}
	buf := make([]byte, 2048)
	receive := func(until time.Time) (string, error) {
		conn.SetReadDeadline(until)
		n, err := conn.Read(buf)
		if err != nil {
			return "", err
		}
		seen[string(buf[:n])] = true
		return string(buf[:n]), nil
	}
	for i := range count {
		word := strconv.Itoa(i)
		if _, err := conn.Write([]byte(word)); err != nil {
			return err
		}
		// Two milliseconds make a late answer, which still counts, not a lost one.
		for until := time.Now().Add(2 * time.Millisecond); ; {
			if got, err := receive(until); err != nil || got == word {
				break
			}
		}
	}
	// Packets keep their order: an echo of the end comes after all that come at all.
	for until := time.Now().Add(patience); len(seen) < count && time.Now().Before(until); {
		if _, err := conn.Write([]byte("end")); err != nil {
			return err
		}
		if got, err := receive(earlier(until, time.Now().Add(50*time.Millisecond))); got == "end" {
			break
		} else if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	delete(seen, "end")
	fmt.Print(len(seen))
	return nil
}

// playCreate makes the lab that the configuration says, with three hosts.
func playCreate(args []string) error {
	var cfg Config
	if err := json.Unmarshal([]byte(args[0]), &cfg); err != nil {
		return err
	}
	_, err := Create(cfg, 3)
	return err
}

// play runs one of the above on a host and returns what it printed.
func play(t *testing.T, on *Host, args ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := on.Exec(t.Context(), nil, &out, &out, self, args...); err != nil {
		return fmt.Sprint(err, " ", out.String())
	}
	return out.String()
}

func dial(t *testing.T, from *Host, addr string) string {
	t.Helper()
	return play(t, from, "dial", addr, wantAnswer.String())
}

// echoes is how many of count packets came back over UDP.
func echoes(t *testing.T, from, to *Host, count int, patience time.Duration) int {
	t.Helper()
	out := play(t, from, "echo", to.Addr.String(), strconv.Itoa(count), patience.String())
	n, err := strconv.Atoi(out)
	if err != nil {
		t.Fatalf("%s to %s: %s", from.Name, to.Name, out)
	}
	return n
}
