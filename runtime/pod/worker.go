package pod

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"golang.org/x/sys/unix"

	"kontiki/runtime/image"
	"kontiki/runtime/shim"
)

// Shim is what a worker needs of the parent of all containers.
type Shim interface {
	CreateSandbox(ctx context.Context, spec shim.SandboxSpec) (shim.Sandbox, error)
	RemoveSandbox(ctx context.Context, id string) error
	Create(ctx context.Context, spec shim.ContainerSpec) (shim.Container, error)
	Start(ctx context.Context, id string) (shim.Container, error)
	Signal(ctx context.Context, id string, signal unix.Signal) error
	Delete(ctx context.Context, id string) error
	Acknowledge(ctx context.Context, ids ...string) error
	ExecSync(ctx context.Context, container string, spec shim.ExecSpec, limit int) (shim.Exit, []byte, error)
	Console(ctx context.Context, id string) (*os.File, error)
	RestoreConsole(ctx context.Context, id string, master *os.File) error
}

// Images is what a worker needs of the image store.
type Images interface {
	Resolve(ref string) (image.Image, error)
	PullAs(ctx context.Context, ref string, as []image.Credential, progress image.Progress) (image.Image, error)
	Unpack(ctx context.Context, img image.Image) error
	Mount(ctx context.Context, img image.Image, id, dir string) (rootfs string, err error)
	Unmount(id, dir string) error
}

// Network gives a pod its addresses; repeatable.
type Network interface {
	Attach(ctx context.Context, pod *corev1.Pod, netns string) ([]netip.Addr, error)
	Detach(ctx context.Context, uid string) error
}

// API is where a worker tells of its pod.
type API interface {
	// Publish takes the newest status; it reaches the API when it can.
	Publish(pod *corev1.Pod, status corev1.PodStatus)
	// Flush writes a status now.
	Flush(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error
	// Finalize deletes the pod with grace 0; one that is gone is a success.
	Finalize(ctx context.Context, pod *corev1.Pod) error
	// Event tells the user; container may be empty.
	Event(pod *corev1.Pod, container, eventType, reason, message string)
}

// Counter counts what is started; of a container with its kind, and why not; pulls of
// images, with the image's size and how long that took; and how long a worker was at it
// each time, by what woke it, in upstream's words.
type Counter interface {
	PodWorked(operation string, took time.Duration)
	ImagePulled(bytes int64, took time.Duration, err error)
	PodStarted(err error)
	ContainerStarted(kind, failure string)
}

// What a worker does when it is woken, in upstream's words.
const (
	opCreate     = "create"
	opUpdate     = "update"
	opSync       = "sync"
	opKill       = "kill"
	opTerminated = "terminated"
)

// Deps are what all workers of a node share.
type Deps struct {
	Shim    Shim
	Images  Images
	Network Network
	// NetworkReady says why no pod can be attached yet; nil: they can.
	NetworkReady func() error
	// StartReady: what containers are told when they start (Services) is known.
	StartReady  func() bool
	API         API
	Counter     Counter
	Objects     Objects
	Services    func(namespace string) []*corev1.Service
	HostIPs     func() []string
	Allocatable func() corev1.ResourceList
	DNS         DNS
	// NodeCredentials is a file of docker's with which every pod may pull; it may be missing.
	NodeCredentials string
	Dir             string // of all pods
	SeccompDir      string // of profiles of type Localhost
	Now             func() time.Time
	Log             *slog.Logger
}

// Worker runs one pod. See the package comment.
type Worker struct {
	deps *Deps
	dir  string
	rec  *Record
	log  *slog.Logger

	mu     sync.Mutex      // protects inbox
	inbox  []func(*Record) // run by the worker's goroutine, in order
	signal chan struct{}

	saver     saver
	last      *corev1.PodStatus // last one published
	current   *corev1.PodStatus // as the API has it
	pumps     map[string]*pump  // by container
	probes    map[string]context.CancelFunc
	jobs      sync.WaitGroup // everything the worker started
	ended     chan struct{}  // closed when Run returns
	unsettled map[string]bool
	woken     string           // by what: one of Counter's operations
	adoptee   []shim.Container // what the shim had when the agent began
}

// NewWorker makes the worker of a pod. known are the containers that the shim
// has of it, as listed when the agent started; for a new pod there are none.
func NewWorker(deps *Deps, rec *Record, known []shim.Container) *Worker {
	w := &Worker{
		deps: deps, dir: filepath.Join(deps.Dir, string(rec.Pod.UID)), rec: rec,
		log:    deps.Log.With("pod", rec.Pod.Namespace+"/"+rec.Pod.Name, "uid", rec.Pod.UID),
		signal: make(chan struct{}, 1), ended: make(chan struct{}), pumps: map[string]*pump{}, probes: map[string]context.CancelFunc{},
	}
	w.adoptee = known
	w.saver = saver{
		write: func(b []byte) error { return writeSynced(filepath.Join(w.dir, recordName), b, 0o600) },
		fail:  func(err error) { w.log.Error("cannot save the pod's state", "error", err) },
		jobs:  &w.jobs,
	}
	return w
}

func (w *Worker) post(f func(*Record)) {
	w.mu.Lock()
	w.inbox = append(w.inbox, f)
	w.mu.Unlock()
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// Update gives the worker a newer version of its pod.
func (w *Worker) Update(pod *corev1.Pod) {
	w.post(func(r *Record) {
		if w.woken == opSync {
			w.woken = opUpdate
		}
		w.current = pod.Status.DeepCopy()
		if r.Volumes.Ready && showsMetadata(pod) && (!maps.Equal(r.Pod.Labels, pod.Labels) || !maps.Equal(r.Pod.Annotations, pod.Annotations)) {
			r.VolumesOld = true
		}
		r.SetPod(pod)
		w.hasten()
	})
}

// hasten shortens an ending that is under way when the API asks for less grace.
func (w *Worker) hasten() {
	r := w.rec
	if r.Stopping == nil || r.Pod.DeletionTimestamp == nil {
		return
	}
	if grace := podGrace(r.Pod); grace < r.Stopping.Grace {
		r.Stopping.Grace = grace
		w.noLaterThan(w.deps.Now().Add(grace))
	}
}

// noLaterThan brings forward the end of containers that were asked to stop already.
func (w *Worker) noLaterThan(latest time.Time) {
	for _, c := range w.rec.Containers {
		if c.KillAt.After(latest) {
			c.KillAt = latest
		}
	}
}

// Gone says that the API has no such pod any more.
func (w *Worker) Gone() { w.post(func(r *Record) { r.Gone = true }) }

// Refresh looks again at what volumes are made of.
func (w *Worker) Refresh() {
	w.post(func(r *Record) {
		r.VolumesOld = r.VolumesOld || r.Volumes.Ready
	})
}

// Evict ends the pod for taking more than its share.
func (w *Worker) Evict(message string) {
	w.post(func(r *Record) {
		if r.Stopping != nil {
			return
		}
		w.event("", corev1.EventTypeWarning, "Evicted", message)
		r.Stopping = &Stopping{At: w.deps.Now(), Grace: evictionGrace, Phase: corev1.PodFailed, Reason: "Evicted", Message: message}
		w.commit()
	})
}

// evictionGrace is upstream's for a pod that broke a limit of its own.
const evictionGrace = time.Second

// Ended is closed when Run has returned.
func (w *Worker) Ended() <-chan struct{} { return w.ended }

// AskUses answers, once the worker gets to it, whether the pod may have the
// PersistentVolume mounted.
func (w *Worker) AskUses(volume string, answer func(bool)) {
	w.post(func(r *Record) { answer(r.uses(volume)) })
}

// Exited tells of the end of a container.
func (w *Worker) Exited(e shim.Exit) {
	w.post(func(*Record) { w.exited(e) })
}

// Run works until the pod is gone from node and API (true), or ctx ends (false).
// It returns when everything it started has ended; containers go on.
func (w *Worker) Run(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer close(w.ended)
	defer w.jobs.Wait()
	defer func() {
		for _, p := range w.pumps {
			p.stop()
		}
	}()
	defer cancel()
	if !w.makeDir(ctx) {
		return false
	}
	w.adopt(ctx, w.adoptee)
	w.askTokens(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	began := w.deps.Now()
	w.woken = opCreate
	for rounds := 0; ; {
		w.drain(ctx)
		actions, wake := Step(w.rec, w.deps.Now())
		for _, a := range actions {
			if ctx.Err() != nil {
				return false
			}
			w.do(ctx, a)
		}
		if w.rec.ForgetIt {
			w.deps.Counter.PodWorked(opTerminated, w.deps.Now().Sub(began))
			return true
		}
		w.publish()
		if rounds++; len(actions) > 0 && rounds < 1000 {
			continue
		}
		if len(actions) > 0 { // a step that changes nothing is a fault of ours; do not burn a core over it
			w.log.Error("the pod's worker makes no progress", "actions", actions)
			wake = w.deps.Now().Add(time.Second)
		}
		rounds = 0
		if w.rec.Stopping != nil {
			w.woken = opKill
		}
		w.deps.Counter.PodWorked(w.woken, w.deps.Now().Sub(began))
		timer.Reset(time.Hour)
		if !wake.IsZero() {
			timer.Reset(wake.Sub(w.deps.Now()))
		}
		select {
		case <-ctx.Done():
			return false
		case <-w.signal:
		case <-timer.C:
		}
		began, w.woken = w.deps.Now(), opSync
	}
}

// makeDir makes the pod's directory, however long it takes (a disk can be full), unless ctx ends
// first. A pod that must end meanwhile has nothing on disk, and needs none.
func (w *Worker) makeDir(ctx context.Context) bool {
	for p := (Phase{}); ; {
		err := os.MkdirAll(w.dir, 0o755)
		if err == nil || w.rec.Gone || w.rec.Stopping != nil || w.rec.Pod.DeletionTimestamp != nil {
			return true
		}
		if now := w.deps.Now(); !now.Before(p.RetryAt) {
			p.fail(err, now)
			w.event("", corev1.EventTypeWarning, "FailedToMakePodDataDirectories", "error making pod data directories: "+err.Error())
		}
		select {
		case <-ctx.Done():
			return false
		case <-w.signal:
			w.drain(ctx)
		case <-time.After(p.RetryAt.Sub(w.deps.Now())):
		}
	}
}

func (w *Worker) drain(ctx context.Context) {
	w.mu.Lock()
	inbox := w.inbox
	w.inbox = nil
	w.mu.Unlock()
	for _, f := range inbox {
		f(w.rec)
	}
	w.settle(ctx)
}

// publish tells the API side when the status differs from what was told.
func (w *Worker) publish() {
	s := w.status()
	if w.last == nil || !equality.Semantic.DeepEqual(*w.last, s) {
		w.last = &s
		w.deps.API.Publish(w.rec.Pod, s)
	}
}

func (w *Worker) status() corev1.PodStatus {
	s := Status(w.rec, View{Now: w.deps.Now(), HostIPs: w.deps.HostIPs(), Current: w.current})
	w.rec.Conditions = s.Conditions
	return s
}

func (w *Worker) containerDir(name string) string { return filepath.Join(w.dir, name) }

func (w *Worker) sources(ctx context.Context) *sources {
	s := &sources{ctx: ctx, pod: w.rec.Pod, objects: w.deps.Objects, services: w.deps.Services, hostIPs: w.deps.HostIPs(), podIPs: w.rec.IPs, allocatable: w.deps.Allocatable()}
	if w.rec.Pod.Spec.HostNetwork {
		s.podIPs = s.hostIPs
	}
	return s
}

func (w *Worker) event(container, eventType, reason, message string) {
	w.deps.API.Event(w.rec.Pod, container, eventType, reason, message)
}

func (w *Worker) spec(name string) *corev1.Container {
	for _, c := range w.rec.all() {
		if c.Name == name {
			return c
		}
	}
	return nil
}
