package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// forbidFragments sets the bit that forbids to cut what is sent into fragments.
func forbidFragments(conn syscall.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	})
	return errors.Join(err, serr)
}

// tryPing sends an echo request whose IP packet has Size bytes, a few times.
func (q question) tryPing() (a answer, err error) {
	const headers = 20 + 8
	dialed, err := net.Dial("ip4:icmp", q.To)
	if err != nil {
		return a, err
	}
	defer dialed.Close()
	conn := dialed.(*net.IPConn)
	if q.Whole {
		if err := forbidFragments(conn); err != nil {
			return a, err
		}
	}
	data := make([]byte, max(0, q.Size-headers))
	rand.Read(data)
	request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: 1, Data: data}}
	packet, err := request.Marshal(nil)
	if err != nil {
		return a, err
	}
	for range 3 {
		if _, err = conn.Write(packet); err != nil {
			return a, err
		}
		if err = awaitReply(conn, data); err == nil {
			return a, nil
		}
	}
	return a, err
}

// awaitReply waits for the reply with this data; others' packets come in, too.
func awaitReply(conn *net.IPConn, data []byte) error {
	conn.SetReadDeadline(time.Now().Add(patience / 2))
	buf := make([]byte, 1<<16)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		reply, err := icmp.ParseMessage(1, buf[:n]) // 1 is ICMP of IPv4
		if err != nil || reply.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		if echo, ok := reply.Body.(*icmp.Echo); ok && bytes.Equal(echo.Data, data) {
			return nil
		}
	}
}
