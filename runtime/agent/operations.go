package agent

import (
	"context"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// countedShim counts what is asked of the shim, by the names that the kubelet has for the
// same questions to its runtime. What waits for something to happen (exits, the end of a
// command) is not among them.
type countedShim struct {
	Shim
	m       *metrics
	stopped *sync.Map // ids of containers whose stop is counted
}

func countingShim(s Shim, m *metrics) countedShim { return countedShim{s, m, new(sync.Map)} }

func counted[T any](m *metrics, kind string, do func() (T, error)) (T, error) {
	began := time.Now()
	out, err := do()
	m.operations.WithLabelValues(kind).Inc()
	m.operationTime.WithLabelValues(kind).Observe(time.Since(began).Seconds())
	if err != nil {
		m.operationsFailed.WithLabelValues(kind).Inc()
	}
	return out, err
}

func (m *metrics) counted(kind string, do func() error) error {
	_, err := counted(m, kind, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

func (c countedShim) CreateSandbox(ctx context.Context, spec shim.SandboxSpec) (shim.Sandbox, error) {
	return counted(c.m, "run_podsandbox", func() (shim.Sandbox, error) { return c.Shim.CreateSandbox(ctx, spec) })
}

func (c countedShim) RemoveSandbox(ctx context.Context, id string) error {
	return c.m.counted("remove_podsandbox", func() error { return c.Shim.RemoveSandbox(ctx, id) })
}

func (c countedShim) ListSandboxes(ctx context.Context) ([]shim.Sandbox, error) {
	return counted(c.m, "list_podsandbox", func() ([]shim.Sandbox, error) { return c.Shim.ListSandboxes(ctx) })
}

func (c countedShim) Create(ctx context.Context, spec shim.ContainerSpec) (shim.Container, error) {
	return counted(c.m, "create_container", func() (shim.Container, error) { return c.Shim.Create(ctx, spec) })
}

func (c countedShim) Start(ctx context.Context, id string) (shim.Container, error) {
	return counted(c.m, "start_container", func() (shim.Container, error) { return c.Shim.Start(ctx, id) })
}

// Signal counts the stop of a container once, as upstream's one call with a grace period: the
// SIGKILL that ends the grace is a part of it.
func (c countedShim) Signal(ctx context.Context, id string, signal unix.Signal) error {
	if _, again := c.stopped.LoadOrStore(id, true); again {
		return c.Shim.Signal(ctx, id, signal)
	}
	err := c.m.counted("stop_container", func() error { return c.Shim.Signal(ctx, id, signal) })
	if err != nil {
		c.stopped.Delete(id)
	}
	return err
}

func (c countedShim) Delete(ctx context.Context, id string) error {
	c.stopped.Delete(id)
	return c.m.counted("remove_container", func() error { return c.Shim.Delete(ctx, id) })
}

func (c countedShim) List(ctx context.Context) ([]shim.Container, error) {
	return counted(c.m, "list_containers", func() ([]shim.Container, error) { return c.Shim.List(ctx) })
}

func (c countedShim) ExecSync(ctx context.Context, container string, spec shim.ExecSpec, limit int) (shim.Exit, []byte, error) {
	var output []byte
	exit, err := counted(c.m, "exec_sync", func() (exit shim.Exit, err error) {
		exit, output, err = c.Shim.ExecSync(ctx, container, spec, limit)
		return exit, err
	})
	return exit, output, err
}

func (c countedShim) Exec(ctx context.Context, container string, spec shim.ExecSpec, stdio shim.Stdio) (id string, console *os.File, err error) {
	err = c.m.counted("exec", func() error {
		id, console, err = c.Shim.Exec(ctx, container, spec, stdio)
		return err
	})
	return id, console, err
}

func (c countedShim) Usage(ctx context.Context) (shim.Usage, error) {
	return counted(c.m, "list_container_stats", func() (shim.Usage, error) { return c.Shim.Usage(ctx) })
}
