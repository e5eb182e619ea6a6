package server

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// patient calls only wait: an upgrade cuts them off instead of waiting for them.
var patient = map[string]bool{"Exits": true, "WaitExec": true, "Upgrade": true, "Shutdown": true, "Info": true}

// dispatch carries out one call. Returned files are closed by the caller.
func (s *Server) dispatch(ctx context.Context, req shim.Request, files []*os.File) (json.RawMessage, []*os.File, error) {
	if !patient[req.Method] {
		s.busy.RLock()
		defer s.busy.RUnlock()
	}
	switch req.Method { // those with descriptors
	case "Exec":
		body, err := decode[shim.ExecBody](req)
		if err != nil {
			return nil, nil, err
		}
		out, err := s.exec(ctx, body, files)
		return nil, out, err
	case "Console":
		body, err := decode[shim.IDBody](req)
		if err != nil {
			return nil, nil, err
		}
		out, err := s.console(ctx, body.ID)
		return nil, out, err
	case "RestoreConsole":
		body, err := decode[shim.IDBody](req)
		if err != nil {
			return nil, nil, err
		}
		return nil, nil, s.restoreConsole(body.ID, files)
	}
	result, err := s.plain(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	body, err := json.Marshal(result)
	return body, nil, err
}

func (s *Server) plain(ctx context.Context, req shim.Request) (any, error) {
	switch req.Method {
	case "Info":
		return s.info()
	case "CreateSandbox":
		return with(req, func(spec shim.SandboxSpec) (any, error) { return s.createSandbox(ctx, spec) })
	case "RemoveSandbox":
		return with(req, func(b shim.IDBody) (any, error) { return nil, s.removeSandbox(ctx, b.ID) })
	case "ListSandboxes":
		return s.listSandboxes(), nil
	case "Create":
		return with(req, func(spec shim.ContainerSpec) (any, error) { return s.create(ctx, spec) })
	case "Start":
		return with(req, func(b shim.IDBody) (any, error) { return s.start(ctx, b.ID) })
	case "Signal":
		return with(req, func(b shim.SignalBody) (any, error) { return nil, s.signal(ctx, b.ID, unix.Signal(b.Signal)) })
	case "State":
		return with(req, func(b shim.IDBody) (any, error) { return s.state(b.ID) })
	case "List":
		return s.listContainers(), nil
	case "Delete":
		return with(req, func(b shim.IDBody) (any, error) { return nil, s.deleteContainer(ctx, b.ID) })
	case "Update":
		return with(req, func(b shim.UpdateBody) (any, error) { return nil, s.update(b.ID, b.Resources) })
	case "Stats":
		return with(req, func(b shim.IDBody) (any, error) { return s.stats(b.ID) })
	case "Usage":
		return s.usage(ctx)
	case "Exits":
		return with(req, func(c shim.Cursor) (any, error) { return s.waitForExits(ctx, c) })
	case "Acknowledge":
		return with(req, func(b shim.IDsBody) (any, error) { return nil, s.acknowledge(b.IDs) })
	case "CloseStdin":
		return with(req, func(b shim.IDBody) (any, error) { return nil, s.closeStdin(b.ID) })
	case "WaitExec":
		return with(req, func(b shim.ExecIDBody) (any, error) { return s.waitExec(ctx, b.Container, b.Exec) })
	case "SignalExec":
		return with(req, func(b shim.ExecIDBody) (any, error) {
			return nil, s.signalExec(b.Container, b.Exec, unix.Signal(b.Signal))
		})
	case "Upgrade":
		return with(req, func(b shim.UpgradeBody) (any, error) { return nil, s.upgrade(b.Program) })
	case "Shutdown":
		s.leaveTree()
		s.stop()
		return nil, nil
	}
	return nil, fmt.Errorf("the shim knows no call %q: %w", req.Method, shim.ErrInvalid)
}

func decode[T any](req shim.Request) (T, error) {
	var body T
	if err := json.Unmarshal(req.Body, &body); err != nil {
		return body, fmt.Errorf("%s: %v: %w", req.Method, err, shim.ErrInvalid)
	}
	return body, nil
}

func with[T any](req shim.Request, do func(T) (any, error)) (any, error) {
	body, err := decode[T](req)
	if err != nil {
		return nil, err
	}
	return do(body)
}

func (s *Server) info() (shim.Info, error) {
	hash, err := s.hash()
	return shim.Info{PID: os.Getpid(), Instance: s.instance, Hash: hash, Cgroup2: cgroups.IsCgroup2UnifiedMode()}, err
}
