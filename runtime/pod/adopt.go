package pod

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"kontiki/runtime/shim"
)

// adopt brings the record in line with what the shim has, after the agent began.
func (w *Worker) adopt(ctx context.Context, known []shim.Container) {
	changed := w.forgetEnv()
	byID := map[string]shim.Container{}
	for _, k := range known {
		byID[k.ID] = k
	}
	for name, c := range w.rec.Containers {
		id := containerID(w.rec.Pod, name, c.Attempt)
		k, there := byID[id]
		switch {
		case there && k.Status != shim.Created && c.State == Waiting:
			// It was started, and the agent died before it wrote that down.
			c.ID, c.Tried, c.State, c.StartedAt = id, true, Running, k.Started
			changed = true
			w.began(name, c)
		case !there && c.State == Running:
			changed = true
			c.State, c.Ended = Exited, &Ended{ID: id, Code: 137, Reason: "ContainerStatusUnknown", Message: "The container could not be located when the pod was terminated", StartedAt: c.StartedAt, FinishedAt: w.deps.Now()}
		}
		if there && c.State != Waiting && !c.Reaped {
			w.startPump(ctx, name, k.IO)
		}
		if there && k.Exit != nil && c.State == Running {
			w.exited(*k.Exit)
		}
	}
	if changed {
		w.commit()
	}
}

// began sets what is true of a container that has just started to run.
func (w *Worker) began(name string, c *Container) {
	spec := w.spec(name)
	if spec == nil {
		return
	}
	c.SpecImage = spec.Image
	c.Hooked = postStart(spec) == nil
	c.Started = c.Hooked && spec.StartupProbe == nil
	c.Ready = c.Started && spec.ReadinessProbe == nil
}

// exited takes the end of a container into the record, once.
func (w *Worker) exited(e shim.Exit) {
	if e.ContainerID == shim.PauseID(string(w.rec.Pod.UID)) && w.rec.Stopping == nil {
		w.rec.Sandbox = Phase{} // what all shared is gone, and they with it
	}
	for name, c := range w.rec.Containers {
		if c.ID != e.ContainerID || c.State != Running {
			continue
		}
		c.State, c.Ready, c.Started = Exited, false, false
		c.Ended = &Ended{ID: c.ID, Code: e.Code, Reason: exitReason(e), StartedAt: c.StartedAt, FinishedAt: e.At}
		c.Ended.Message = w.terminationMessage(name, c)
		if e.Unknown {
			c.Ended.Message = "The container could not be located when the pod was terminated"
		}
	}
	w.commit()
	if w.unsettled == nil {
		w.unsettled = map[string]bool{}
	}
	w.unsettled[e.ContainerID] = true
}

func exitReason(e shim.Exit) string {
	switch {
	case e.Unknown:
		return "ContainerStatusUnknown"
	case e.OOMKilled && e.Code != 0:
		return "OOMKilled"
	case e.Code == 0:
		return "Completed"
	}
	return "Error"
}

// settle acknowledges exits that are in the record, and keeps hooks and probes
// going for what runs and for nothing else.
func (w *Worker) settle(ctx context.Context) {
	for id := range w.unsettled {
		if err := w.deps.Shim.Acknowledge(ctx, id); err != nil {
			w.log.Debug("cannot acknowledge an exit", "container", id, "error", err)
		}
		delete(w.unsettled, id) // untold ones are told again by the next shim or agent, and found known
	}
	for _, c := range w.rec.all() {
		st := w.rec.Containers[c.Name]
		stop, probing := w.probes[c.Name]
		running := st.State == Running && w.rec.Stopping == nil
		if running && postStart(c) != nil && !st.Hooked && !st.Hooking && st.KillReason == "" {
			w.hookAfterStart(ctx, c, st)
		}
		wanted := running && (st.Hooked || postStart(c) == nil)
		switch {
		case wanted && !probing:
			w.probes[c.Name] = w.startProbes(ctx, c, st)
		case !wanted && probing:
			stop()
			delete(w.probes, c.Name)
		}
	}
}

const maxTerminationMessage = 4096

// terminationMessage is the end of what a container wrote as its last words.
func (w *Worker) terminationMessage(name string, c *Container) string {
	f, err := os.Open(filepath.Join(w.containerDir(name), fmt.Sprintf("termination-log.%d", c.Attempt)))
	if err != nil {
		return ""
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return ""
	}
	buf := make([]byte, min(fi.Size(), maxTerminationMessage))
	n, _ := f.ReadAt(buf, fi.Size()-int64(len(buf)))
	return string(buf[:n])
}

// since is for messages: how long something took, rounded for reading.
func since(from, to time.Time) time.Duration { return to.Sub(from).Round(time.Millisecond) }
