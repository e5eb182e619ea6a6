package pod

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// View is what a status needs beside the record.
type View struct {
	Now     time.Time
	HostIPs []string
	Current *corev1.PodStatus // as the API has it: conditions of others count for readiness gates
}

// Status tells how the pod is, in upstream's words. It changes nothing.
func Status(r *Record, v View) corev1.PodStatus {
	spec := &r.Pod.Spec
	start := metav1.NewTime(r.StartTime)
	s := corev1.PodStatus{ObservedGeneration: r.Pod.Generation, StartTime: &start, QOSClass: qosClass(spec)}
	for _, ip := range v.HostIPs {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
	}
	if len(v.HostIPs) > 0 {
		s.HostIP = v.HostIPs[0]
	}
	ips := r.IPs
	if spec.HostNetwork {
		ips = v.HostIPs
	}
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		s.PodIP = ips[0]
	}
	initialized := initsDone(r)
	for i := range spec.InitContainers {
		s.InitContainerStatuses = append(s.InitContainerStatuses, r.containerStatus(&spec.InitContainers[i], true, v.Now))
	}
	for i := range spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, r.containerStatus(&spec.Containers[i], initialized, v.Now))
	}
	for _, c := range ephemerals(spec) {
		st := r.containerStatus(c, true, v.Now)
		st.Ready, st.Started = false, nil // it serves nobody
		s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, st)
	}
	s.Phase = phase(r, initialized)
	if r.Stopping != nil && (s.Phase == corev1.PodFailed || s.Phase == corev1.PodSucceeded) {
		s.Reason, s.Message = r.Stopping.Reason, r.Stopping.Message
	}
	s.Conditions = r.conditions(&s, initialized, v)
	return s
}

func initsDone(r *Record) bool {
	_, done := (&plan{}).inits(r, time.Time{})
	return done
}

// phase is upstream's getPhase.
func phase(r *Record, initialized bool) corev1.PodPhase {
	var waiting, running, stopped, good int
	for i := range r.Pod.Spec.Containers {
		switch c := r.Containers[r.Pod.Spec.Containers[i].Name]; {
		case c.State == Running:
			running++
		case c.State == Exited:
			stopped++
			if c.Ended.Code == 0 {
				good++
			}
		case c.Last != nil:
			stopped++
		default:
			waiting++
		}
	}
	// Not before nothing runs any more, sidecars included: others act on the word.
	if r.Stopping != nil && r.Stopping.Phase != "" {
		if !r.anyRunning() {
			return r.Stopping.Phase
		}
		if initialized {
			return corev1.PodRunning
		}
		return corev1.PodPending
	}
	if r.Stopping != nil && r.TornDown {
		if waiting == 0 && stopped == good {
			return corev1.PodSucceeded
		}
		return corev1.PodFailed
	}
	if !initialized || waiting > 0 || running+stopped == 0 {
		return corev1.PodPending
	}
	return corev1.PodRunning
}

func (r *Record) containerStatus(c *corev1.Container, turn bool, now time.Time) corev1.ContainerStatus {
	st := r.Containers[c.Name]
	s := corev1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: st.ImageID, RestartCount: int32(st.Attempt)}
	if st.ImageRef != "" {
		s.Image = st.ImageRef
	}
	for i := range c.VolumeMounts {
		s.VolumeMounts = append(s.VolumeMounts, mountStatus(&c.VolumeMounts[i]))
	}
	if st.ID != "" {
		s.ContainerID = "kontiki://" + st.ID
	}
	if st.Last != nil {
		s.LastTerminationState.Terminated = terminated(st.Last)
		if s.ContainerID == "" {
			s.ContainerID = "kontiki://" + st.Last.ID
		}
	}
	started := st.State == Running && st.Started
	s.Started = &started
	s.Ready = st.State == Running && st.Ready
	if isInit(&r.Pod.Spec, c.Name) && !isSidecar(c) {
		s.Ready = st.State == Exited && st.Ended.Code == 0 // an init container is ready when it is done
	}
	switch st.State {
	case Running:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(st.StartedAt.Truncate(time.Second))}
	case Exited:
		if until := st.backoffUntil(now); r.Stopping == nil && now.Before(until) && restarts(r.policyOf(c), st.Ended.Code) {
			s.LastTerminationState.Terminated = terminated(st.Ended)
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", st.Backoff, c.Name, describe(r.Pod))}
		} else {
			s.State.Terminated = terminated(st.Ended)
		}
	default:
		s.State.Waiting = r.waiting(st, turn)
	}
	return s
}

// mountStatus tells what became of "if possible": every kernel that this runs on can.
func mountStatus(m *corev1.VolumeMount) corev1.VolumeMountStatus {
	s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
	if m.ReadOnly {
		mode := corev1.RecursiveReadOnlyDisabled
		if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled {
			mode = corev1.RecursiveReadOnlyEnabled
		}
		s.RecursiveReadOnly = &mode
	}
	return s
}

func (r *Record) waiting(st *Container, turn bool) *corev1.ContainerStateWaiting {
	switch {
	case !turn:
		return &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
	case st.CreateWhy != "":
		return &corev1.ContainerStateWaiting{Reason: st.CreateWhy, Message: st.Create.Failure}
	case st.Image.Reason != "":
		return &corev1.ContainerStateWaiting{Reason: st.Image.Reason, Message: st.Image.Message}
	case len(r.Pod.Spec.InitContainers) > 0:
		return &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	return &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

// policyOf is what becomes of a container that ends.
func (r *Record) policyOf(c *corev1.Container) corev1.RestartPolicy {
	policy := r.Pod.Spec.RestartPolicy
	switch {
	case isSidecar(c):
		return corev1.RestartPolicyAlways
	case isEphemeral(&r.Pod.Spec, c.Name):
		return corev1.RestartPolicyNever
	case policy == corev1.RestartPolicyAlways && isInit(&r.Pod.Spec, c.Name):
		return corev1.RestartPolicyOnFailure
	}
	return policy
}

func terminated(e *Ended) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: int32(e.Code), Signal: int32(e.Signal), Reason: e.Reason, Message: e.Message,
		FinishedAt: metav1.NewTime(e.FinishedAt.Truncate(time.Second)), ContainerID: "kontiki://" + e.ID,
	}
	if !e.StartedAt.IsZero() {
		t.StartedAt = metav1.NewTime(e.StartedAt.Truncate(time.Second))
	}
	return t
}

// describe is upstream's way to name a pod in messages: name_namespace(uid).
func describe(p *corev1.Pod) string { return fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID) }

func (r *Record) conditions(s *corev1.PodStatus, initialized bool, v View) []corev1.PodCondition {
	ended := ""
	switch s.Phase {
	case corev1.PodSucceeded:
		ended = "PodCompleted"
	case corev1.PodFailed:
		ended = "PodFailed"
	}
	cond := func(t corev1.PodConditionType, ok bool, reason, message string) corev1.PodCondition {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: r.Pod.Generation}
		if ok {
			c.Status = corev1.ConditionTrue
		}
		return c
	}
	list := []corev1.PodCondition{cond(corev1.PodReadyToStartContainers, r.sandboxUp(), "", "")}
	switch {
	case ended == "PodCompleted":
		list = append(list, cond(corev1.PodInitialized, true, ended, ""))
	case initialized:
		list = append(list, cond(corev1.PodInitialized, true, "", ""))
	default:
		list = append(list, cond(corev1.PodInitialized, false, "ContainersNotInitialized", "containers with incomplete status: ["+strings.Join(unready(s.InitContainerStatuses), " ")+"]"))
	}
	bad := unready(s.ContainerStatuses)
	containers := cond(corev1.ContainersReady, len(bad) == 0 && initialized, "", "")
	if ended != "" {
		containers = cond(corev1.ContainersReady, false, ended, "")
	} else if len(bad) > 0 {
		containers.Reason, containers.Message = "ContainersNotReady", "containers with unready status: ["+strings.Join(bad, " ")+"]"
	}
	ready := containers
	ready.Type = corev1.PodReady
	// Until the API's conditions are known (nil), gates stand as they stood last.
	if missing := closedGates(r.Pod, v.Current); !(v.Current == nil && r.wasReady()) && ready.Status == corev1.ConditionTrue && missing != "" {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", missing
	}
	list = append(list, ready, containers, cond(corev1.PodScheduled, true, "", ""))
	for i := range list {
		list[i].LastTransitionTime = metav1.NewTime(v.Now.Truncate(time.Second))
		for _, old := range r.Conditions {
			if old.Type == list[i].Type && old.Status == list[i].Status {
				list[i].LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	return list
}

// sandboxUp: running containers prove it, also while the agent looks again after its own restart.
func (r *Record) sandboxUp() bool {
	return !r.TornDown && (r.Sandbox.Ready || r.anyRunning())
}

func (r *Record) wasReady() bool {
	for _, c := range r.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (r *Record) anyRunning() bool {
	for _, c := range r.Containers {
		if c.State == Running {
			return true
		}
	}
	return false
}

func unready(list []corev1.ContainerStatus) (names []string) {
	for _, c := range list {
		if !c.Ready {
			names = append(names, c.Name)
		}
	}
	return names
}

// closedGates says which readiness gates are not open, in upstream's words.
func closedGates(pod *corev1.Pod, current *corev1.PodStatus) string {
	var msgs []string
	for _, g := range pod.Spec.ReadinessGates {
		msg := fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(g.ConditionType))
		if current != nil {
			for _, c := range current.Conditions {
				if c.Type == g.ConditionType {
					msg = ""
					if c.Status != corev1.ConditionTrue {
						msg = fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(g.ConditionType), c.Status)
					}
				}
			}
		}
		if msg != "" {
			msgs = append(msgs, msg)
		}
	}
	return strings.Join(msgs, ", ")
}

// qosClass is upstream's rule over CPU and memory of all containers.
func qosClass(spec *corev1.PodSpec) corev1.PodQOSClass {
	guaranteed, any := true, false
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				limit, request := list[i].Resources.Limits[name], list[i].Resources.Requests[name]
				any = any || !limit.IsZero() || !request.IsZero()
				// A request that is left out equals the limit.
				guaranteed = guaranteed && !limit.IsZero() && (request.IsZero() || request.Cmp(limit) == 0)
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
