package cronjob

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// TestEachTimeStartsOneJobAtMost runs CronJobs through minutes and hours that pass, Jobs
// that end, Jobs that users start or remove, caches that are behind the API and each other, crashes
// before any write, and leaders that begin anew. No time starts a second Job, not even when
// its first was removed; where it is forbidden none starts beside another; none starts past
// its deadline; and the latest time that may start one has.
func TestEachTimeStartsOneJobAtMost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		defer m.end()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 12).Draw(t, "step") {
			case 0:
				m.pass(time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second)
			case 1:
				m.pass(time.Duration(rapid.IntRange(1, 300).Draw(t, "minutes")) * time.Minute)
			case 2:
				m.startByHand()
			case 3, 4:
				m.endJob()
			case 5:
				m.show(m.c.cronJobsInformer)
			case 6:
				m.show(m.c.jobsInformer)
			case 7, 8:
				m.removeJob()
			default:
				m.sync(rapid.IntRange(0, 6).Draw(t, "crash"))
			}
		}
		m.pass(time.Second)
		m.sync(1 << 20)
		m.latestStarted()
	})
}

const key = "default/often"

// model is an API with one CronJob, and its controller, whose caches show what the test has
// them show.
type model struct {
	t       *rapid.T
	c       *Controller
	now     time.Time
	cj      *batchv1.CronJob
	jobs    map[string]*batchv1.Job
	started map[string]bool // by name, also of those that are gone
	made    int
	left    int // writes until a crash
}

func newModel(t *rapid.T) *model {
	m := &model{t: t, now: time.Date(2026, 1, 1, 0, 0, 30, 0, time.UTC), jobs: map[string]*batchv1.Job{}, started: map[string]bool{}}
	m.cj = &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "often", UID: "cj", ResourceVersion: "1", CreationTimestamp: metav1.NewTime(m.now)}}
	m.cj.Spec = batchv1.CronJobSpec{
		Schedule:                   rapid.SampledFrom([]string{"* * * * *", "*/2 * * * *", "7 * * * *"}).Draw(t, "schedule"),
		ConcurrencyPolicy:          rapid.SampledFrom([]batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}).Draw(t, "policy"),
		SuccessfulJobsHistoryLimit: ptr.To(rapid.Int32Range(0, 1).Draw(t, "keeps")), FailedJobsHistoryLimit: ptr.To[int32](0),
	}
	if rapid.Bool().Draw(t, "deadline") {
		m.cj.Spec.StartingDeadlineSeconds = ptr.To(rapid.Int64Range(10, 600).Draw(t, "seconds"))
	}
	client := fake.NewClientset()
	client.PrependReactor("*", "*", m.react)
	m.c = New(client, informers.NewSharedInformerFactory(client, 0), &record.FakeRecorder{}, slog.New(slog.DiscardHandler), func() time.Time { return m.now })
	m.showAll()
	return m
}

// end lets the controller's queue end.
func (m *model) end() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.c.Run(ctx); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) show(informer cache.SharedIndexInformer) {
	var objects []any
	if informer == m.c.cronJobsInformer {
		objects = []any{m.cj}
	} else {
		for _, job := range m.jobs {
			objects = append(objects, job)
		}
	}
	if err := informer.GetIndexer().Replace(objects, ""); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) showAll() {
	m.show(m.c.cronJobsInformer)
	m.show(m.c.jobsInformer)
}

// pass lets time go by; no cache is a minute behind.
func (m *model) pass(d time.Duration) {
	m.showAll()
	m.now = m.now.Add(d)
}

func (m *model) running() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m.jobs)), func(name string) bool { how, _ := ended(m.jobs[name]); return how != "" })
}

func (m *model) startByHand() {
	m.made++
	name := fmt.Sprint("by-hand-", m.made)
	m.jobs[name] = &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(m.cj, kind)}}}
}

func (m *model) endJob() {
	all := m.running()
	if len(all) == 0 {
		return
	}
	name := rapid.SampledFrom(all).Draw(m.t, "ends")
	job := m.jobs[name].DeepCopy()
	how := rapid.SampledFrom([]batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed}).Draw(m.t, "how")
	job.Status.Conditions = []batchv1.JobCondition{{Type: how, Status: "True", LastTransitionTime: metav1.NewTime(m.now)}}
	m.jobs[name] = job
}

// removeJob has a user remove one of a time that the status tells: nothing else would.
func (m *model) removeJob() {
	told := slices.DeleteFunc(slices.Sorted(maps.Keys(m.jobs)), func(name string) bool {
		last := m.cj.Status.LastScheduleTime
		return last == nil || scheduledAt(m.jobs[name]).After(last.Time)
	})
	if len(told) > 0 {
		delete(m.jobs, rapid.SampledFrom(told).Draw(m.t, "removed"))
	}
}

// sync has the controller work until a write fails; who leads then lists what there is.
func (m *model) sync(crash int) {
	m.left = crash
	if err := m.c.sync(context.Background(), key); err != nil {
		if m.left >= 0 && !apierrors.IsConflict(err) {
			m.t.Fatal(err)
		}
		m.showAll()
	}
}

var errCrash = errors.New("the leader is gone")

func (m *model) react(action clienttesting.Action) (bool, runtime.Object, error) {
	jobs := action.GetResource().Resource == "jobs"
	if action.GetVerb() != "get" {
		if m.left--; m.left < 0 {
			return true, nil, errCrash
		}
	}
	switch a := action.(type) {
	case clienttesting.GetActionImpl:
		if !jobs {
			return true, m.cj.DeepCopy(), nil
		}
		if job := m.jobs[a.Name]; job != nil {
			return true, job.DeepCopy(), nil
		}
		return true, nil, apierrors.NewNotFound(batchv1.Resource("jobs"), a.Name)
	case clienttesting.CreateActionImpl:
		return m.create(a.Object.(*batchv1.Job).DeepCopy())
	case clienttesting.UpdateActionImpl:
		update := a.Object.(*batchv1.CronJob).DeepCopy()
		if update.ResourceVersion != m.cj.ResourceVersion {
			return true, nil, apierrors.NewConflict(batchv1.Resource("cronjobs"), update.Name, errors.New("it was changed"))
		}
		m.made++
		update.ResourceVersion = strconv.Itoa(m.made + 1)
		m.cj = update
		return true, update.DeepCopy(), nil
	case clienttesting.DeleteActionImpl:
		if m.jobs[a.Name] == nil {
			return true, nil, apierrors.NewNotFound(batchv1.Resource("jobs"), a.Name)
		}
		delete(m.jobs, a.Name)
		return true, nil, nil
	}
	m.t.Fatalf("nobody expected %+v", action)
	return true, nil, nil
}

func (m *model) create(job *batchv1.Job) (bool, runtime.Object, error) {
	if m.jobs[job.Name] != nil {
		return true, nil, apierrors.NewAlreadyExists(batchv1.Resource("jobs"), job.Name)
	}
	at := scheduledAt(job)
	if m.started[job.Name] {
		m.t.Fatalf("the time %v starts a second Job", at)
	}
	if deadline := m.cj.Spec.StartingDeadlineSeconds; deadline != nil && m.now.Sub(at) > time.Duration(*deadline)*time.Second {
		m.t.Fatalf("the time %v starts a Job at %v, %d s is the deadline", at, m.now, *deadline)
	}
	for _, other := range m.running() {
		if m.cj.Spec.ConcurrencyPolicy != batchv1.AllowConcurrent && m.started[other] {
			m.t.Fatalf("%s starts beside %s, which is %s", job.Name, other, m.cj.Spec.ConcurrencyPolicy)
		}
	}
	m.made++
	job.UID = types.UID(fmt.Sprint("job-", m.made))
	job.CreationTimestamp = metav1.NewTime(m.now)
	m.jobs[job.Name], m.started[job.Name] = job, true
	return true, job.DeepCopy(), nil
}

// latestStarted: of the times that were, the last one started its Job, if it might.
func (m *model) latestStarted() {
	schedule, err := scheduleOf(m.cj)
	if err != nil {
		m.t.Fatal(err)
	}
	var latest time.Time
	for at := schedule.Next(m.cj.CreationTimestamp.Time); !at.After(m.now); at = schedule.Next(at) {
		latest = at
	}
	deadline := m.cj.Spec.StartingDeadlineSeconds
	if latest.IsZero() || m.cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent || deadline != nil && m.now.Sub(latest) > time.Duration(*deadline)*time.Second {
		return
	}
	if name := jobOf(m.cj, latest).Name; !m.started[name] {
		m.t.Fatalf("the time %v has started no Job; there were %v", latest, slices.Sorted(maps.Keys(m.started)))
	}
}
