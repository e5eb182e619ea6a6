package pod

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// lastChance is what a container gets after its preStop hook has used up the
// grace period, as upstream has it.
const lastChance = 2 * time.Second

// postStart returns the hook of a container that is due after its start.
func postStart(c *corev1.Container) *corev1.LifecycleHandler {
	if c.Lifecycle == nil {
		return nil
	}
	return c.Lifecycle.PostStart
}

func preStop(c *corev1.Container) *corev1.LifecycleHandler {
	if c.Lifecycle == nil {
		return nil
	}
	return c.Lifecycle.PreStop
}

// runHook runs a hook in the background; done is called in the worker's
// goroutine, unless the attempt is over by then. A hook is run at least once: when the
// agent dies in it, the next one begins it again.
func (w *Worker) runHook(ctx context.Context, c *corev1.Container, h *corev1.LifecycleHandler, done func(*Container, error)) {
	st := w.rec.Containers[c.Name]
	attempt := st.Attempt
	t := &target{w: w, pod: w.rec.Pod, c: c, id: st.ID, exec: st.Exec, host: first(w.sources(ctx).podIPs)}
	w.jobs.Go(func() {
		err := t.hook(ctx, h)
		w.post(func(r *Record) {
			if cur := r.Containers[c.Name]; cur != nil && cur.Attempt == attempt && cur.State == Running {
				done(cur, err)
			}
		})
	})
}

// hook does what a handler says.
func (t *target) hook(ctx context.Context, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		return t.askExec(ctx, h.Exec.Command)
	case h.HTTPGet != nil:
		resp, err := t.getHTTP(ctx, h.HTTPGet, "kube-lifecycle/1.37")
		if err != nil {
			return err
		}
		return resp.Body.Close() // whatever it answers: it was told
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("invalid handler: it names neither exec, nor httpGet, nor sleep")
}

// hookAfterStart runs what is due after a start; the container counts as started when it is done.
func (w *Worker) hookAfterStart(ctx context.Context, c *corev1.Container, st *Container) {
	st.Hooking = true
	w.runHook(ctx, c, postStart(c), func(cur *Container, err error) {
		cur.Hooking = false
		if err != nil && ctx.Err() == nil {
			w.event(c.Name, corev1.EventTypeWarning, "FailedPostStartHook", fmt.Sprintf("PostStartHook failed: %v", err))
			cur.KillReason = "FailedPostStartHook"
			return
		}
		cur.Hooked = true
		cur.Started = c.StartupProbe == nil
		cur.Ready = cur.Started && c.ReadinessProbe == nil
		w.commitBeside() // else the next agent begins it again
	})
}

// hookBeforeStop runs what is due before a container is asked to stop, and then asks it.
func (w *Worker) hookBeforeStop(ctx context.Context, c *corev1.Container, st *Container, grace time.Duration) {
	st.Stopping = true
	hooks, cancel := context.WithTimeout(ctx, grace)
	w.runHook(hooks, c, preStop(c), func(cur *Container, err error) {
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.event(c.Name, corev1.EventTypeWarning, "FailedPreStopHook", fmt.Sprintf("PreStopHook failed: %v", err))
		}
		if now := w.deps.Now(); cur.KillAt.Before(now.Add(lastChance)) && !cur.Killed {
			cur.KillAt = now.Add(lastChance)
		}
		w.askToStop(ctx, c.Name, cur)
	})
}

// askToStop sends the signal.
func (w *Worker) askToStop(ctx context.Context, name string, st *Container) {
	if err := w.deps.Shim.Signal(ctx, st.ID, w.stopSignal(name)); err != nil {
		if ctx.Err() != nil {
			return
		}
		w.log.Warn("cannot ask a container to stop", "container", name, "error", err)
	}
	st.Asked, st.Stopping = true, false
	w.commit()
}
