package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"kontiki/runtime/logs"
	"kontiki/runtime/shim"
)

// pumpPatience is how long an ended container's output is waited for; a process
// that escaped and holds the other end must not keep a pod from going on.
const pumpPatience = 5 * time.Second

const retryMax = 30 * time.Second

// fail notes a failed try and when to try again.
func (p *Phase) fail(err error, now time.Time) {
	p.Failure = err.Error()
	p.RetryAt = now.Add(min(500*time.Millisecond<<min(p.Tries, 10), retryMax))
	p.Tries++
}

func (w *Worker) do(ctx context.Context, a Action) {
	w.log.Debug("step", "action", a.String())
	switch a.Verb {
	case SetupSandbox:
		w.doSandbox(ctx)
	case SetupVolumes:
		w.doVolumes(ctx)
	case EnsureImage:
		w.doImage(ctx, a.Container)
	case StartRun:
		w.doStart(ctx, a.Container)
	case Restart:
		w.rec.Containers[a.Container].nextAttempt(w.deps.Now())
		w.commit()
	case TellBackoff:
		w.rec.Containers[a.Container].BackoffTold = true
		w.event(a.Container, corev1.EventTypeWarning, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", a.Container, describe(w.rec.Pod)))
	case Terminate:
		w.doTerminate(ctx, a)
	case Kill:
		w.doKill(ctx, a.Container)
	case Reap:
		w.doReap(ctx, a.Container)
	case End:
		w.rec.Stopping = a.Stopping
		w.noLaterThan(a.Stopping.At.Add(a.Stopping.Grace))
		if a.Stopping.Reason != "" {
			w.event("", corev1.EventTypeNormal, a.Stopping.Reason, a.Stopping.Message)
		}
		w.commit()
	case Teardown:
		w.doTeardown(ctx)
	case Publish, Finalize:
		w.doFinal(ctx, a.Verb)
	case Forget:
		w.saver.settle()
		if err := os.RemoveAll(w.dir); err != nil {
			w.log.Error("cannot remove the pod's directory", "error", err)
		}
		w.rec.ForgetIt = true
	}
}

// waitStep is how soon to look again for what is about to come.
const waitStep = 100 * time.Millisecond

func (w *Worker) doSandbox(ctx context.Context) {
	// What an agent that dies leaves of a sandbox without a record the next one removes, and the end
	// of the machine takes it along: nothing here waits for the disk. The start of a container does.
	w.commitBeside()
	pod, p := w.rec.Pod, &w.rec.Sandbox
	if err := w.deps.NetworkReady(); err != nil && !pod.Spec.HostNetwork {
		if p.Failure == "" {
			w.event("", corev1.EventTypeWarning, "NetworkNotReady", "network is not ready: "+err.Error())
		}
		p.Failure, p.RetryAt = err.Error(), w.deps.Now().Add(waitStep)
		return
	}
	err := func() error {
		spec, err := w.sandboxSpec(ctx)
		if err != nil {
			return err
		}
		sandbox, err := w.deps.Shim.CreateSandbox(ctx, spec)
		if err != nil {
			return err
		}
		w.rec.SandboxMade, w.rec.NetNS = true, sandbox.NetNS
		if !pod.Spec.HostNetwork {
			addrs, err := w.deps.Network.Attach(ctx, pod, sandbox.NetNS)
			if err != nil {
				return fmt.Errorf("network: %w", err)
			}
			w.rec.IPs = nil
			for _, a := range addrs {
				w.rec.IPs = append(w.rec.IPs, a.String())
			}
		}
		return w.writeFiles()
	}()
	if ctx.Err() != nil {
		return
	}
	w.deps.Counter.PodStarted(err)
	if err != nil {
		p.fail(err, w.deps.Now())
		w.event("", corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
		return
	}
	*p = Phase{Ready: true}
	w.commitBeside()
}

func (w *Worker) doVolumes(ctx context.Context) {
	err := w.setupVolumes(w.sources(ctx))
	if ctx.Err() != nil {
		return
	}
	if err != nil { // what was made before stays as it is, and serves
		w.rec.Volumes.fail(err, w.deps.Now())
		w.event("", corev1.EventTypeWarning, "FailedMount", err.Error())
		return
	}
	w.rec.Volumes, w.rec.VolumesOld = Phase{Ready: true}, false
}

// Failures of doStart, by what a user sees as the waiting reason.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

func (w *Worker) doStart(ctx context.Context, name string) {
	c, spec := w.rec.Containers[name], w.spec(name)
	if !w.deps.StartReady() {
		c.Create.RetryAt = w.deps.Now().Add(waitStep)
		return
	}
	c.Tried = true
	err := w.start(ctx, c, spec, w.commitBeside())
	if ctx.Err() != nil {
		return
	}
	now := w.deps.Now()
	var bad configError
	var profile profileError
	switch {
	case err == nil:
		c.Create, c.CreateWhy = Phase{}, ""
		w.commitBeside() // should the agent die first, the shim knows what it started
	case errors.As(err, &profile):
		c.CreateWhy = "CreateContainerError"
		c.Create.fail(err, now)
		w.event(name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
	case errors.As(err, &bad):
		c.CreateWhy = "CreateContainerConfigError"
		c.Create.fail(err, now)
		w.event(name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
	case errors.Is(err, shim.ErrUnavailable), errors.Is(err, shim.ErrNotRunning), errors.Is(err, os.ErrNotExist):
		c.CreateWhy = "CreateContainerError"
		c.Create.fail(err, now)
		c.Image.Ready = false // look again: it may be that which is gone
		w.event(name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
	default: // the program cannot be run: that is an end as any other, with its back-off
		c.ID = containerID(w.rec.Pod, name, c.Attempt)
		c.State, c.Create, c.CreateWhy = Exited, Phase{}, ""
		c.Ended = &Ended{ID: c.ID, Code: 128, Reason: "StartError", Message: err.Error(), FinishedAt: now}
		w.event(name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		w.commit()
	}
	failure := ""
	if err != nil {
		if failure = c.CreateWhy; failure == "" {
			failure = "RunContainerError"
		}
	}
	w.deps.Counter.ContainerStarted(w.kindOf(name), failure)
}

// kindOf is what a container is to the pod, in the words of upstream's metrics.
func (w *Worker) kindOf(name string) string {
	switch spec := &w.rec.Pod.Spec; {
	case isInit(spec, name):
		return "init_container"
	case isEphemeral(spec, name):
		return "ephemeral_container"
	}
	return "container"
}

// start creates and starts the current attempt. Its program does not begin before recorded returns:
// what has run is known to have been tried, whatever ends.
func (w *Worker) start(ctx context.Context, c *Container, spec *corev1.Container, recorded func()) error {
	img, err := w.deps.Images.Resolve(spec.Image)
	if err != nil {
		return fmt.Errorf("%w: %w", os.ErrNotExist, err)
	}
	id := containerID(w.rec.Pod, spec.Name, c.Attempt)
	dir := w.rootDir(spec.Name, c.Attempt)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return configError{err}
	}
	rootfs, err := w.deps.Images.Mount(ctx, img, id, dir)
	if err != nil {
		return configError{err}
	}
	cs, err := w.containerSpec(w.sources(ctx), spec, img, id, rootfs)
	if err != nil {
		return configError{err}
	}
	made, err := w.deps.Shim.Create(ctx, cs)
	if errors.Is(err, shim.ErrConflict) {
		// Left by an agent that died before it was started, and made from what was
		// true then (Services, say). Nothing of it ran.
		if err = w.deps.Shim.Delete(ctx, id); err == nil {
			made, err = w.deps.Shim.Create(ctx, cs)
		}
	}
	if err != nil {
		return err
	}
	w.event(spec.Name, corev1.EventTypeNormal, "Created", "Created container: "+spec.Name)
	c.ID, c.ImageRef = id, img.Ref
	c.ImageID = img.ID
	if img.RepoDigest != "" {
		c.ImageID = img.RepoDigest
	}
	joins := shim.ExecSpec{Env: cs.Env, Cwd: cs.Cwd, User: cs.User, Capabilities: cs.Capabilities, NoNewPrivileges: cs.NoNewPrivileges}
	if err := w.setExec(spec, c, joins); err != nil {
		return configError{err}
	}
	w.startPump(ctx, spec.Name, made.IO)
	recorded()
	run, err := w.deps.Shim.Start(ctx, id)
	if err != nil {
		return err
	}
	c.State, c.StartedAt = Running, run.Started
	w.began(spec.Name, c)
	w.event(spec.Name, corev1.EventTypeNormal, "Started", "Started container "+spec.Name)
	if run.Exit != nil { // started by an earlier try, whose answer was lost
		w.exited(*run.Exit)
	}
	return nil
}

func (w *Worker) rootDir(name string, attempt int) string {
	return filepath.Join(w.containerDir(name), "root."+strconv.Itoa(attempt))
}

// WrittenDir is where what a container writes into its root lies.
func WrittenDir(podsDir string, c shim.Container) string {
	attempt := c.ID[strings.LastIndexByte(c.ID, '.')+1:]
	return filepath.Join(podsDir, c.SandboxID, c.Labels[LabelContainer], "root."+attempt, "upper")
}

func (w *Worker) doTerminate(ctx context.Context, a Action) {
	c := w.rec.Containers[a.Container]
	message := "Stopping container " + a.Container
	if c.KillReason != "" {
		message = c.KillReason
	}
	spec := w.spec(a.Container)
	if w.rec.Stopping == nil && changed(spec, c) {
		c.Changed = true
		message = fmt.Sprintf("Container %s definition changed, will be restarted", a.Container)
	}
	w.event(a.Container, corev1.EventTypeNormal, "Killing", message)
	hook := preStop(spec)
	if c.KillAt.IsZero() { // else an agent before this one began
		c.KillAt = w.deps.Now().Add(a.Grace)
		if hook != nil {
			c.KillAt = c.KillAt.Add(lastChance)
		}
	}
	w.commit()
	if hook != nil {
		w.hookBeforeStop(ctx, spec, c, a.Grace)
		return
	}
	w.askToStop(ctx, a.Container, c)
}

// stopSignal is the image's, SIGTERM by default.
func (w *Worker) stopSignal(name string) unix.Signal {
	spec := w.spec(name)
	if img, err := w.deps.Images.Resolve(spec.Image); err == nil && img.Config.Config.StopSignal != "" {
		s := strings.ToUpper(img.Config.Config.StopSignal)
		if n, err := strconv.Atoi(s); err == nil {
			return unix.Signal(n)
		}
		if !strings.HasPrefix(s, "SIG") {
			s = "SIG" + s
		}
		if n := unix.SignalNum(s); n != 0 {
			return n
		}
	}
	return unix.SIGTERM
}

func (w *Worker) doKill(ctx context.Context, name string) {
	c := w.rec.Containers[name]
	if err := w.deps.Shim.Signal(ctx, c.ID, unix.SIGKILL); err != nil {
		if ctx.Err() == nil {
			w.log.Error("cannot kill a container, trying again", "container", name, "error", err)
			c.KillAt = w.deps.Now().Add(time.Second)
		}
		return
	}
	c.Killed = true
}

// doReap removes what an ended attempt left, but for its log.
func (w *Worker) doReap(ctx context.Context, name string) {
	c, now := w.rec.Containers[name], w.deps.Now()
	if p := w.pumps[name]; p != nil && !p.finished() && c.Ended != nil {
		if until := c.Ended.FinishedAt.Add(pumpPatience); now.Before(until) {
			c.ReapRetry = until
			return
		}
		p.stop()
	}
	delete(w.pumps, name)
	id := containerID(w.rec.Pod, name, c.Attempt)
	dir := w.rootDir(name, c.Attempt)
	err := w.deps.Shim.Delete(ctx, id)
	if err == nil {
		err = w.removeSubPaths(name)
	}
	if err == nil {
		err = w.deps.Images.Unmount(id, dir)
	}
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		if ctx.Err() == nil {
			w.log.Error("cannot remove what an ended container left, trying again", "container", name, "error", err)
		}
		c.ReapRetry = now.Add(time.Second)
		return
	}
	w.logMessage(name, c)
	for old := c.Attempt - 2; old >= 0; old-- { // the last two attempts can be asked for
		if os.Remove(filepath.Join(w.containerDir(name), fmt.Sprintf("termination-log.%d", old))) != nil {
			break
		}
		gone, _ := filepath.Glob(LogPath(w.deps.Dir, string(w.rec.Pod.UID), name, old) + "*")
		for _, g := range gone {
			_ = os.Remove(g)
		}
	}
	c.Reaped, c.Tried = true, c.State == Exited
	w.commit()
}

// logMessage takes the end of the log as termination message, where the pod asks for it.
func (w *Worker) logMessage(name string, c *Container) {
	spec := w.spec(name)
	if c.Ended == nil || c.Ended.Code == 0 || c.Ended.Message != "" || spec.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
		return
	}
	var b strings.Builder
	opts := logs.Options{Tail: 80}
	if logs.Read(context.Background(), LogPath(w.deps.Dir, string(w.rec.Pod.UID), name, c.Attempt), opts, func() bool { return false }, &b) == nil {
		s := b.String()
		c.Ended.Message = s[max(0, len(s)-2048):]
	}
}

func (w *Worker) doTeardown(ctx context.Context) {
	uid := string(w.rec.Pod.UID)
	err := func() error {
		if !w.rec.Pod.Spec.HostNetwork {
			if err := w.deps.Network.Detach(ctx, uid); err != nil {
				return fmt.Errorf("release the pod's address: %w", err)
			}
		}
		if err := w.deps.Shim.RemoveSandbox(ctx, uid); err != nil {
			return err
		}
		return w.removeVolumes()
	}()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		w.rec.Sandbox.fail(err, w.deps.Now())
		w.event("", corev1.EventTypeWarning, "FailedKillPod", "error killing pod: "+err.Error())
		return
	}
	w.rec.Sandbox, w.rec.Volumes, w.rec.TornDown = Phase{}, Phase{}, true
	w.commit()
}

// doFinal tells the API the end: the last status, then that the pod can go.
func (w *Worker) doFinal(ctx context.Context, v Verb) {
	var err error
	if v == Publish {
		s := w.status()
		if err = w.deps.API.Flush(ctx, w.rec.Pod, s); err == nil {
			w.rec.Published, w.last = true, &s
		}
	} else if err = w.deps.API.Finalize(ctx, w.rec.Pod); err == nil {
		w.rec.Finalized = true
	}
	if err != nil {
		if ctx.Err() == nil {
			w.log.Warn("cannot tell the API of the pod's end yet, trying again", "error", err)
		}
		w.rec.FinalRetry = w.deps.Now().Add(time.Second)
	}
}
