package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"kontiki/node"
)

// errNoAnswer is wrapped when no node listens on the socket.
var errNoAnswer = errors.New("no node answers")

// adminCall asks the node on this machine over its unix socket and decodes its
// answer into out, unless that is nil.
func adminCall(ctx context.Context, dir, method, path string, in, out any) error {
	body, err := adminStream(ctx, dir, method, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("the node's answer is not readable: %w", err)
	}
	return nil
}

// adminStream is adminCall for an answer that is read as it comes.
func adminStream(ctx context.Context, dir, method, path string, in any) (io.ReadCloser, error) {
	socket := node.SocketPath(dir)
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w on %s (is it running? is --data-dir right?): %w", errNoAnswer, socket, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var refusal node.AdminError
	if err := json.NewDecoder(resp.Body).Decode(&refusal); err != nil || refusal.Error == "" {
		return nil, fmt.Errorf("the node answers %s", resp.Status)
	}
	return nil, errors.New(refusal.Error)
}
