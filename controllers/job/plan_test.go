package job

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"kontiki/controllers/plantest"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type podInput struct {
	Name     string `json:"name"`
	State    string `json:"state"` // running (the default), succeeded, failed
	Free     bool   `json:"free"`  // without finalizer
	Leaving  bool   `json:"leaving"`
	Index    *int   `json:"index"`
	Failures int    `json:"failures"`
	Ignored  int    `json:"ignored"`
	Exit     int32  `json:"exit"`
	Ago      string `json:"ago"`      // since it ended; an hour by default
	Restarts int32  `json:"restarts"` // of its container
	Says     string `json:"says"`     // a condition that is true
}

type input struct {
	Job       batchv1.Job `json:"job"`
	Pods      []podInput  `json:"pods"`
	Unsettled bool        `json:"unsettled"`
}

type output struct {
	Create     []string `json:"create,omitempty"`
	Remove     []string `json:"remove,omitempty"`
	Free       []string `json:"free,omitempty"`
	Counts     string   `json:"counts,omitempty"`
	Uncounted  string   `json:"uncounted,omitempty"`
	Conditions []string `json:"conditions,omitempty"`
	Events     []string `json:"events,omitempty"`
	Expire     bool     `json:"expire,omitempty"`
	Again      string   `json:"again,omitempty"`
}

func podOf(t testing.TB, in podInput) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: in.Name, UID: types.UID(in.Name), Annotations: map[string]string{}}}
	if !in.Free {
		pod.Finalizers = []string{finalizer}
	}
	if in.Index != nil {
		pod.Annotations[batchv1.JobCompletionIndexAnnotation] = fmt.Sprint(*in.Index)
		pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = fmt.Sprint(in.Failures)
		pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = fmt.Sprint(in.Ignored)
	}
	if in.Leaving {
		pod.DeletionTimestamp = &metav1.Time{Time: epoch}
	}
	ago := time.Hour
	if in.Ago != "" {
		var err error
		if ago, err = time.ParseDuration(in.Ago); err != nil {
			t.Fatal(err)
		}
	}
	ended := corev1.ContainerStatus{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: in.Exit, FinishedAt: metav1.NewTime(epoch.Add(-ago))}}}
	switch in.State {
	case "succeeded":
		pod.Status.Phase, pod.Status.ContainerStatuses = corev1.PodSucceeded, []corev1.ContainerStatus{ended}
	case "failed":
		pod.Status.Phase, pod.Status.ContainerStatuses = corev1.PodFailed, []corev1.ContainerStatus{ended}
	default:
		pod.Status.Phase, pod.Status.ContainerStatuses = corev1.PodRunning, []corev1.ContainerStatus{{Name: "c", RestartCount: in.Restarts}}
	}
	if in.Says != "" {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodConditionType(in.Says), Status: corev1.ConditionTrue}}
	}
	return pod
}

func names(pods []*corev1.Pod) (all []string) {
	for _, pod := range pods {
		all = append(all, pod.Name)
	}
	return all
}

func join(uids []types.UID) string {
	var all []string
	for _, uid := range uids {
		all = append(all, string(uid))
	}
	return strings.Join(all, ",")
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		w := world{job: &in.Job, settled: !in.Unsettled, now: epoch}
		if !suspended(w.job) && w.job.Status.StartTime == nil {
			w.job.Status.StartTime = &metav1.Time{Time: epoch.Add(-time.Minute)}
		}
		for _, p := range in.Pods {
			w.pods = append(w.pods, podOf(t, p))
		}
		todo := plan(w)
		out := output{Remove: names(todo.remove), Free: names(todo.free), Expire: todo.expire}
		for _, s := range todo.create {
			text := fmt.Sprintf("index %d after %d failures", s.index, s.failures)
			if s.ignored > 0 {
				text += fmt.Sprintf(", %d ignored", s.ignored)
			}
			out.Create = append(out.Create, text)
		}
		for _, e := range todo.events {
			out.Events = append(out.Events, e.kind+" "+e.reason+": "+e.message)
		}
		if todo.again > 0 {
			out.Again = todo.again.String()
		}
		if s := todo.status; s != nil {
			out.Counts = fmt.Sprintf("active %d terminating %d succeeded %d failed %d", s.Active, *s.Terminating, s.Succeeded, s.Failed)
			if indexed(w.job) {
				out.Counts += fmt.Sprintf(" completed %q failed %q", s.CompletedIndexes, ptr.Deref(s.FailedIndexes, ""))
			}
			if u := s.UncountedTerminatedPods; len(u.Succeeded)+len(u.Failed) > 0 {
				out.Uncounted = fmt.Sprintf("succeeded %s failed %s", join(u.Succeeded), join(u.Failed))
			}
			for _, c := range s.Conditions {
				out.Conditions = append(out.Conditions, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
			}
		}
		return out
	})
}

func TestIndexesReadAndWrite(t *testing.T) {
	for _, text := range []string{"", "0", "1,3-5", "0,1", "2-4,7,9,10"} {
		if got := parseIndexes(text, 100).String(); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	if got := parseIndexes("1-5,9,x,7-y", 4).String(); got != "1-3" {
		t.Errorf("out of range and nonsense: %q", got)
	}
}

// TestEachPodIsCountedOnce runs Jobs through pods that end in any order, pods that
// are deleted by users, stale pod caches and crashes between any two writes: when all
// is done, the counts are those of the pods that truly ended, and no index ran to
// success twice in the count.
func TestEachPodIsCountedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, pods: map[string]*corev1.Pod{}, now: epoch}
		m.job = &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "work", UID: "job"}}
		m.job.Spec.BackoffLimit = ptr.To[int32](1000)
		m.job.Spec.Parallelism = ptr.To(rapid.Int32Range(1, 3).Draw(t, "parallelism"))
		m.job.Spec.Completions = ptr.To(rapid.Int32Range(1, 5).Draw(t, "completions"))
		if rapid.Bool().Draw(t, "indexed") {
			m.job.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			m.now = m.now.Add(time.Hour) // past any back-off
			if rapid.IntRange(0, 2).Draw(t, "step") == 0 {
				m.podEvent(rapid.IntRange(0, 3).Draw(t, "event"))
			} else {
				m.act(rapid.IntRange(0, 5).Draw(t, "crash"), rapid.Bool().Draw(t, "stale"))
			}
		}
		m.settle()
	})
}

type model struct {
	t                 *rapid.T
	job               *batchv1.Job
	pods              map[string]*corev1.Pod
	stale             []*corev1.Pod // what a cache that is behind shows
	now               time.Time
	made              int
	succeeded, failed int // pods that ended while they had the finalizer
}

func (m *model) sorted() []*corev1.Pod {
	var all []*corev1.Pod
	for i := range m.made {
		if pod := m.pods[fmt.Sprintf("p%d", i)]; pod != nil {
			all = append(all, pod)
		}
	}
	return all
}

func (m *model) act(crash int, stale bool) {
	w := world{job: m.job.DeepCopy(), pods: m.sorted(), settled: true, now: m.now}
	if stale && m.stale != nil {
		w.pods, w.settled = m.stale, false
	}
	m.stale = m.sorted()
	todo := plan(w)
	step := func() bool { crash--; return crash >= 0 }
	for _, pod := range todo.remove {
		if now := m.pods[pod.Name]; now != nil && step() {
			if !todo.count {
				now = m.free(now)
			}
			m.leave(now)
		}
	}
	for _, s := range todo.create {
		if !step() {
			break
		}
		pod := podOf(nil, podInput{Name: fmt.Sprintf("p%d", m.made), Index: &s.index})
		m.made++
		m.pods[pod.Name] = pod
	}
	if todo.status == nil || step() {
		if todo.status != nil {
			m.job.Status = *todo.status
		}
		for _, pod := range todo.free {
			if now := m.pods[pod.Name]; now != nil && step() {
				m.free(now)
			}
		}
	}
}

// free takes the finalizer off; what is being deleted and has ended is gone then.
func (m *model) free(pod *corev1.Pod) *corev1.Pod {
	pod = pod.DeepCopy()
	pod.Finalizers = nil
	m.pods[pod.Name] = pod
	if pod.DeletionTimestamp != nil {
		delete(m.pods, pod.Name)
	}
	return pod
}

func (m *model) leave(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		return
	}
	pod = pod.DeepCopy()
	pod.DeletionTimestamp = &metav1.Time{Time: m.now}
	m.pods[pod.Name] = pod
	if len(pod.Finalizers) == 0 {
		delete(m.pods, pod.Name)
	} else if pod.Status.Phase == corev1.PodRunning {
		m.failed++ // it counts as failed from here on
	}
}

func (m *model) podEvent(what int) {
	var running []*corev1.Pod
	for _, pod := range m.sorted() {
		if pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil {
			running = append(running, pod)
		}
	}
	if len(running) == 0 {
		return
	}
	pod := rapid.SampledFrom(running).Draw(m.t, "pod").DeepCopy()
	held := 0
	if hasFinalizer(pod) {
		held = 1
	}
	switch what {
	case 0:
		pod.Status.Phase = corev1.PodFailed
		m.failed += held
	case 1:
		m.leave(pod)
		return
	default:
		pod.Status.Phase = corev1.PodSucceeded
		m.succeeded += held
	}
	m.pods[pod.Name] = pod
}

func (m *model) settle() {
	for range 300 {
		if finished(m.job) {
			m.check()
			return
		}
		m.now = m.now.Add(time.Hour)
		m.act(1<<20, false)
		for _, pod := range m.sorted() {
			if pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil {
				pod = pod.DeepCopy()
				pod.Status.Phase = corev1.PodSucceeded
				m.succeeded++
				m.pods[pod.Name] = pod
			}
		}
	}
	m.t.Fatalf("does not finish: %+v", m.job.Status)
}

func (m *model) check() {
	s := m.job.Status
	if condition(&s, batchv1.JobComplete) == nil {
		m.t.Fatalf("not complete: %+v", s)
	}
	if int(s.Failed) != m.failed {
		m.t.Fatalf("%d counted as failed, %d were", s.Failed, m.failed)
	}
	if indexed(m.job) {
		if int(s.Succeeded) != completions(m.job) {
			m.t.Fatalf("%d indexes succeeded of %d", s.Succeeded, completions(m.job))
		}
	} else if int(s.Succeeded) != m.succeeded {
		m.t.Fatalf("%d counted as succeeded, %d were", s.Succeeded, m.succeeded)
	}
	if slices.ContainsFunc(m.sorted(), hasFinalizer) || uncounted(&s) > 0 {
		m.t.Fatal("finished with pods that are not counted")
	}
}
