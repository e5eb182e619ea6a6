package pod

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestStep plays scripts against the step function: each command changes the
// record as the world would, and shows what the worker would do next. Actions
// are then taken as done, all of them well, until there are none.
func TestStep(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var p *player
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "pod" {
				p = newPlayer(d)
			} else if err := p.command(d); err != nil {
				return "error: " + err.Error()
			}
			return p.play()
		})
	})
}

type player struct {
	rec    *Record
	now    time.Time
	broken map[Verb]bool // these fail
}

// newPlayer makes a pod: pod [policy=P] [grace=S] [deadline=S] init=(a,b) sidecar=(s) main=(c,d)
func newPlayer(d *datadriven.TestData) *player {
	p := &player{now: time.Unix(1000, 0).UTC(), broken: map[Verb]bool{}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways}}
	always := corev1.ContainerRestartPolicyAlways
	for _, a := range d.CmdArgs {
		number := func() *int64 {
			n, _ := strconv.ParseInt(a.Vals[0], 10, 64)
			return &n
		}
		switch a.Key {
		case "policy":
			pod.Spec.RestartPolicy = corev1.RestartPolicy(a.Vals[0])
		case "grace":
			pod.Spec.TerminationGracePeriodSeconds = number()
		case "deadline":
			pod.Spec.ActiveDeadlineSeconds = number()
		case "init":
			for _, n := range a.Vals {
				pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: n})
			}
		case "sidecar":
			for _, n := range a.Vals {
				pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: n, RestartPolicy: &always})
			}
		case "main":
			for _, n := range a.Vals {
				pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: n, Image: "v1"})
			}
		}
	}
	p.rec = NewRecord(pod, p.now)
	return p
}

func (p *player) command(d *datadriven.TestData) error {
	switch d.Cmd {
	case "exit": // exit CONTAINER CODE
		c := p.rec.Containers[d.CmdArgs[0].Key]
		if c.State != Running {
			return fmt.Errorf("it does not run")
		}
		code, _ := strconv.Atoi(d.CmdArgs[1].Key)
		reason := "Error"
		if code == 0 {
			reason = "Completed"
		}
		c.State, c.Ready, c.Started = Exited, false, false
		c.Ended = &Ended{ID: c.ID, Code: code, Reason: reason, FinishedAt: p.now}
	case "wait": // wait DURATION
		by, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			return err
		}
		p.now = p.now.Add(by)
	case "delete": // delete GRACE
		grace, _ := strconv.ParseInt(d.CmdArgs[0].Key, 10, 64)
		at := metav1.NewTime(p.now)
		p.rec.Pod.DeletionTimestamp, p.rec.Pod.DeletionGracePeriodSeconds = &at, &grace
	case "gone":
		p.rec.Gone = true
	case "condemn":
		p.rec.Containers[d.CmdArgs[0].Key].KillReason = "it is sick"
	case "image": // image CONTAINER IMAGE
		p.spec(d.CmdArgs[0].Key).Image = d.CmdArgs[1].Key
	case "debug": // debug CONTAINER: an ephemeral one is added
		p.rec.Pod.Spec.EphemeralContainers = append(p.rec.Pod.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: d.CmdArgs[0].Key}})
		p.rec.SetPod(p.rec.Pod)
	case "hook-cut": // the agent dies in a preStop hook
		p.rec.Containers[d.CmdArgs[0].Key].Asked = false
	case "break":
		p.broken[Verb(d.CmdArgs[0].Key)] = true
	case "mend":
		delete(p.broken, Verb(d.CmdArgs[0].Key))
	case "agent-restart":
		p.rec.Sandbox, p.rec.Volumes, p.rec.Published, p.rec.Finalized = Phase{}, Phase{}, false, false
		for _, c := range p.rec.Containers {
			c.Image, c.Killed, c.KillReason = ImageState{}, false, ""
		}
	default:
		return fmt.Errorf("unknown command %s", d.Cmd)
	}
	return nil
}

// play takes steps until there is nothing to do, and tells what they were and how the pod looks.
func (p *player) play() string {
	var b strings.Builder
	for range 50 {
		actions, wake := Step(p.rec, p.now)
		for _, a := range actions {
			fmt.Fprintln(&b, a)
			p.take(a)
			if p.rec.ForgetIt {
				return b.String() + "forgotten\n"
			}
		}
		if len(actions) == 0 {
			if !wake.IsZero() {
				fmt.Fprintf(&b, "look again in %s\n", wake.Sub(p.now))
			}
			p.show(&b)
			return b.String()
		}
	}
	return b.String() + "no end of it\n"
}

func (p *player) spec(name string) *corev1.Container {
	for _, c := range p.rec.all() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func (p *player) show(b *strings.Builder) {
	s := Status(p.rec, View{Now: p.now})
	p.rec.Conditions = s.Conditions
	fmt.Fprintf(b, "= %s", s.Phase)
	if s.Reason != "" {
		fmt.Fprintf(b, " (%s)", s.Reason)
	}
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady {
			fmt.Fprintf(b, " ready=%s", c.Status)
		}
	}
	for _, c := range slices.Concat(s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses) {
		state := "?"
		switch {
		case c.State.Running != nil:
			state = "running"
		case c.State.Waiting != nil:
			state = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			state = fmt.Sprintf("%s:%d", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
		}
		fmt.Fprintf(b, " %s=%s/%d", c.Name, state, c.RestartCount)
	}
	b.WriteByte('\n')
}

// take does to the record what the action does to the world and the record.
func (p *player) take(a Action) {
	c := p.rec.Containers[a.Container]
	if p.broken[a.Verb] {
		switch a.Verb {
		case SetupSandbox, Teardown:
			p.rec.Sandbox.fail(fmt.Errorf("broken"), p.now)
		case SetupVolumes:
			p.rec.Volumes.fail(fmt.Errorf("broken"), p.now)
		case EnsureImage:
			c.Image.RetryAt, c.Image.Reason = p.now.Add(backoffFirst), errImagePull
		case StartRun:
			c.Tried, c.CreateWhy = true, "CreateContainerConfigError"
			c.Create.fail(fmt.Errorf("broken"), p.now)
		case Reap:
			c.ReapRetry = p.now.Add(time.Second)
		case Publish, Finalize:
			p.rec.FinalRetry = p.now.Add(time.Second)
		}
		return
	}
	switch a.Verb {
	case SetupSandbox:
		p.rec.Sandbox = Phase{Ready: true}
	case SetupVolumes:
		p.rec.Volumes = Phase{Ready: true}
	case EnsureImage:
		c.Image = ImageState{Ready: true}
	case StartRun:
		c.Tried, c.ID, c.State, c.StartedAt = true, containerID(p.rec.Pod, a.Container, c.Attempt), Running, p.now
		c.Started, c.Ready, c.CreateWhy, c.SpecImage = true, true, "", p.spec(a.Container).Image
	case Restart:
		c.nextAttempt(p.now)
	case TellBackoff:
		c.BackoffTold = true
	case Terminate:
		if c.KillAt.IsZero() {
			c.KillAt = p.now.Add(a.Grace)
		}
		c.Asked, c.Changed = true, p.rec.Stopping == nil && changed(p.spec(a.Container), c)
	case Kill:
		c.Killed = true
		c.State, c.Ended = Exited, &Ended{ID: c.ID, Code: 137, Reason: "Error", FinishedAt: p.now}
	case Reap:
		c.Reaped, c.Tried = true, c.State == Exited
	case End:
		p.rec.Stopping = a.Stopping
	case Teardown:
		p.rec.TornDown = true
	case Publish:
		p.rec.Published = true
	case Finalize:
		p.rec.Finalized = true
	case Forget:
		p.rec.ForgetIt = true
	}
}
