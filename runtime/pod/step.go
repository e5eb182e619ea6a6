package pod

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Verb is what an Action does.
type Verb string

// The verbs. Each can be repeated without harm.
const (
	SetupSandbox Verb = "setup-sandbox" // namespaces, then an address
	SetupVolumes Verb = "setup-volumes"
	EnsureImage  Verb = "ensure-image" // in the background
	StartRun     Verb = "start"        // create and start the current attempt
	Restart      Verb = "restart"      // begin the next attempt
	TellBackoff  Verb = "tell-backoff" // the event
	Terminate    Verb = "terminate"    // SIGTERM and a deadline
	Kill         Verb = "kill"         // SIGKILL
	Reap         Verb = "reap"         // remove what is left of an ended attempt
	End          Verb = "end"          // the pod ends by itself; Stopping is filled in
	Teardown     Verb = "teardown"     // address, sandbox, volumes
	Publish      Verb = "publish"      // the last status must have reached the API
	Finalize     Verb = "finalize"     // delete the pod from the API with grace 0
	Forget       Verb = "forget"       // remove its directory; the worker ends
)

// Action is one thing to do.
type Action struct {
	Verb      Verb
	Container string
	Grace     time.Duration // of Terminate
	Stopping  *Stopping     // of End
}

// Upstream's back-off of restarts: doubling from 10 s to 5 min, forgotten after 10 min.
const (
	backoffFirst  = 10 * time.Second
	backoffMax    = 5 * time.Minute
	backoffForget = 2 * backoffMax
)

// plan gathers actions and the time at which to look again.
type plan struct {
	actions []Action
	wake    time.Time
}

func (p *plan) do(v Verb, container string) {
	p.actions = append(p.actions, Action{Verb: v, Container: container})
}

func (p *plan) at(t time.Time) {
	if !t.IsZero() && (p.wake.IsZero() || t.Before(p.wake)) {
		p.wake = t
	}
}

// Step decides what to do next for a pod. It looks at nothing but its
// arguments. No actions and a zero wake time: wait until something happens.
func Step(r *Record, now time.Time) (actions []Action, wake time.Time) {
	p := &plan{}
	if r.Stopping == nil {
		if s := shouldStop(r, now); s != nil {
			return []Action{{Verb: End, Stopping: s}}, time.Time{}
		}
		p.up(r, now)
		if d := r.Pod.Spec.ActiveDeadlineSeconds; d != nil {
			p.at(r.StartTime.Add(time.Duration(*d) * time.Second))
		}
	} else {
		p.down(r, now)
	}
	return p.actions, p.wake
}

// shouldStop says whether the pod is to end now, and how.
func shouldStop(r *Record, now time.Time) *Stopping {
	spec := &r.Pod.Spec
	if r.Pod.DeletionTimestamp != nil || r.Gone {
		return &Stopping{At: now, Grace: podGrace(r.Pod), Deleted: true}
	}
	if d := spec.ActiveDeadlineSeconds; d != nil && !now.Before(r.StartTime.Add(time.Duration(*d)*time.Second)) {
		return &Stopping{At: now, Grace: podGrace(r.Pod), Phase: corev1.PodFailed, Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
	}
	for i := range spec.InitContainers {
		c := r.Containers[spec.InitContainers[i].Name]
		if !isSidecar(&spec.InitContainers[i]) && c.State == Exited && c.Ended.Code != 0 && spec.RestartPolicy == corev1.RestartPolicyNever {
			return &Stopping{At: now, Grace: podGrace(r.Pod), Phase: corev1.PodFailed}
		}
	}
	phase := corev1.PodSucceeded
	for i := range spec.Containers {
		c := r.Containers[spec.Containers[i].Name]
		if c.State != Exited || c.Changed || restarts(spec.RestartPolicy, c.Ended.Code) {
			return nil
		}
		if c.Ended.Code != 0 {
			phase = corev1.PodFailed
		}
	}
	return &Stopping{At: now, Grace: podGrace(r.Pod), Phase: phase}
}

func podGrace(pod *corev1.Pod) time.Duration {
	seconds := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		seconds = *g
	}
	if pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil {
		seconds = *pod.DeletionGracePeriodSeconds
	}
	return time.Duration(max(seconds, 1)) * time.Second // upstream's least is a second, too
}

func restarts(policy corev1.RestartPolicy, code int) bool {
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	}
	return true
}

// up brings a pod towards running.
func (p *plan) up(r *Record, now time.Time) {
	spec := &r.Pod.Spec
	turn, initialized := p.inits(r, now)
	if initialized {
		for i := range spec.Containers {
			turn = append(turn, &spec.Containers[i])
		}
	}
	turn = append(turn, ephemerals(spec)...) // whatever the others do: they are for finding out why
	// Images are looked for while namespaces and volumes are made.
	for _, c := range turn {
		p.image(r, c, now)
	}
	if !p.base(r, now) {
		p.keepEnding(r, now)
		return
	}
	if r.VolumesOld { // beside the rest: containers go on with what there is
		p.retry(&r.Volumes, SetupVolumes, now)
	}
	for _, c := range turn {
		p.container(r, c, r.policyOf(c), now)
	}
	p.keepEnding(r, now)
}

// inits returns the init containers whose turn it is: sidecars begun so far and
// the first that is not done; and whether all are done.
func (p *plan) inits(r *Record, now time.Time) (turn []*corev1.Container, done bool) {
	spec := &r.Pod.Spec
	// Once a main container was tried, the init containers are history, also when
	// the agent came back: they are not run twice in a sandbox's life.
	for i := range spec.Containers {
		if c := r.Containers[spec.Containers[i].Name]; c.Tried || c.Attempt > 0 {
			done = true
		}
	}
	for i := range spec.InitContainers {
		c, st := &spec.InitContainers[i], r.Containers[spec.InitContainers[i].Name]
		if isSidecar(c) {
			turn = append(turn, c)
			if !done && !(st.State == Running && st.Started) {
				return turn, false
			}
			continue
		}
		if !done && !(st.State == Exited && st.Ended.Code == 0) {
			return append(turn, c), false
		}
	}
	return turn, true
}

func (p *plan) image(r *Record, c *corev1.Container, now time.Time) {
	st := r.Containers[c.Name]
	if st.State != Waiting || st.Image.Ready || st.Image.Busy {
		return
	}
	if now.Before(st.Image.RetryAt) {
		p.at(st.Image.RetryAt)
		return
	}
	p.do(EnsureImage, c.Name)
}

// base makes sandbox and volumes; true: both are there.
func (p *plan) base(r *Record, now time.Time) bool {
	for _, b := range []struct {
		phase *Phase
		verb  Verb
	}{{&r.Sandbox, SetupSandbox}, {&r.Volumes, SetupVolumes}} {
		if !b.phase.Ready {
			p.retry(b.phase, b.verb, now)
			return false
		}
	}
	return true
}

func (p *plan) retry(phase *Phase, verb Verb, now time.Time) {
	if now.Before(phase.RetryAt) {
		p.at(phase.RetryAt)
		return
	}
	p.do(verb, "")
}

// container brings one container forward.
func (p *plan) container(r *Record, c *corev1.Container, policy corev1.RestartPolicy, now time.Time) {
	st := r.Containers[c.Name]
	switch st.State {
	case Waiting:
		if now.Before(st.Create.RetryAt) {
			p.at(st.Create.RetryAt)
		} else if st.Image.Ready {
			p.do(StartRun, c.Name)
		}
	case Exited:
		if st.Changed && st.Reaped {
			p.do(Restart, c.Name)
			return
		}
		if !restarts(policy, st.Ended.Code) || !st.Reaped {
			return
		}
		if until := st.backoffUntil(now); now.Before(until) {
			if !st.BackoffTold {
				p.do(TellBackoff, c.Name)
			}
			p.at(until)
			return
		}
		p.do(Restart, c.Name)
	}
}

// backoffUntil is when an ended container may run again.
func (c *Container) backoffUntil(now time.Time) time.Time {
	if c.Backoff == 0 || now.Sub(c.BackoffSet) > backoffForget {
		return time.Time{}
	}
	return c.Ended.FinishedAt.Add(c.Backoff)
}

// nextAttempt moves an ended container on to its next run.
func (c *Container) nextAttempt(now time.Time) {
	if c.Backoff == 0 || now.Sub(c.BackoffSet) > backoffForget {
		c.Backoff = backoffFirst
	} else {
		c.Backoff = min(2*c.Backoff, backoffMax)
	}
	*c = Container{Attempt: c.Attempt + 1, Last: c.Ended, ImageID: c.ImageID, ImageRef: c.ImageRef, Backoff: c.Backoff, BackoffSet: now}
}

// keepEnding carries on what ends: containers that a probe condemned, and what
// is left of those that ended.
func (p *plan) keepEnding(r *Record, now time.Time) {
	for _, c := range r.all() {
		st := r.Containers[c.Name]
		switch {
		case st.State == Running && (st.KillReason != "" || !st.KillAt.IsZero() || changed(c, st)):
			grace := podGrace(r.Pod)
			if st.KillGrace != nil {
				grace = time.Duration(max(*st.KillGrace, 1)) * time.Second
			}
			p.end(r, c, grace, now)
		case st.State == Exited && !st.Reaped:
			p.reap(st, c.Name, now)
		}
	}
}

// changed: what runs is not what the pod asks for now. Only an image can change.
func changed(c *corev1.Container, st *Container) bool {
	return st.SpecImage != "" && st.SpecImage != c.Image
}

func (p *plan) reap(st *Container, name string, now time.Time) {
	if now.Before(st.ReapRetry) {
		p.at(st.ReapRetry)
		return
	}
	p.do(Reap, name)
}

func (p *plan) end(r *Record, c *corev1.Container, grace time.Duration, now time.Time) {
	st := r.Containers[c.Name]
	switch {
	case st.KillAt.IsZero(), !st.Asked && !st.Stopping && now.Before(st.KillAt):
		p.actions = append(p.actions, Action{Verb: Terminate, Container: c.Name, Grace: grace})
	case now.Before(st.KillAt):
		p.at(st.KillAt)
	case !st.Killed:
		p.do(Kill, c.Name)
	}
}

// all lists the pod's containers: init containers, main ones, ephemeral ones.
func (r *Record) all() []*corev1.Container {
	spec := &r.Pod.Spec
	list := make([]*corev1.Container, 0, len(spec.InitContainers)+len(spec.Containers))
	for i := range spec.InitContainers {
		list = append(list, &spec.InitContainers[i])
	}
	for i := range spec.Containers {
		list = append(list, &spec.Containers[i])
	}
	return append(list, ephemerals(spec)...)
}

// down brings a pod towards its end: main containers, then sidecars from the
// last to the first, then everything else; for a deleted pod the API last of all.
func (p *plan) down(r *Record, now time.Time) {
	if p.stopRuns(r, now) {
		return
	}
	if !r.TornDown {
		if now.Before(r.Sandbox.RetryAt) {
			p.at(r.Sandbox.RetryAt)
			return
		}
		p.do(Teardown, "")
		return
	}
	deleted := r.Pod.DeletionTimestamp != nil
	switch {
	case r.Gone:
		p.do(Forget, "")
	case !deleted || r.Finalized: // until it is deleted, or seen to be gone
	case now.Before(r.FinalRetry):
		p.at(r.FinalRetry)
	case !r.Published:
		p.do(Publish, "")
	default:
		p.do(Finalize, "")
	}
}

// stopRuns ends containers; true: some are left.
func (p *plan) stopRuns(r *Record, now time.Time) (left bool) {
	all, spec := r.all(), &r.Pod.Spec
	later := 0
	deadline := r.Stopping.At.Add(r.Stopping.Grace)
	for i := len(all) - 1; i >= 0; i-- {
		c := all[i]
		st := r.Containers[c.Name]
		switch {
		case st.State == Waiting && st.Tried:
			left = true
			p.reap(st, c.Name, now)
		case st.State == Exited && !st.Reaped:
			left = true
			p.reap(st, c.Name, now)
		case st.State == Running:
			left = true
			if isInit(spec, c.Name) && later > 0 {
				continue // sidecars serve until those after them are gone
			}
			later++
			p.end(r, c, max(deadline.Sub(now), time.Second), now)
		}
	}
	return left
}

func (a Action) String() string {
	s := string(a.Verb)
	if a.Container != "" {
		s += " " + a.Container
	}
	if a.Verb == Terminate {
		s += " " + a.Grace.String()
	}
	if a.Stopping != nil {
		s += fmt.Sprintf(" phase=%s reason=%s grace=%s", a.Stopping.Phase, a.Stopping.Reason, a.Stopping.Grace)
	}
	return s
}
