package agent

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"kontiki/runtime/mount"
	"kontiki/runtime/pod"
	"kontiki/runtime/shim"
)

// refreshInterval is how often volumes made of API objects are compared with them.
const refreshInterval = time.Minute

// running is a pod with its worker and what the API was told of it.
type running struct {
	worker *pod.Worker
	poster *poster
	seen   time.Time // when a new pod came; zero once it ran, and of an old one. The worker's alone
}

// resume starts the workers of pods that are on disk, and removes what belongs to none.
func (a *Agent) resume(ctx context.Context, children *sync.WaitGroup) error {
	containers, err := a.cfg.Shim.List(ctx)
	if err != nil {
		return err
	}
	sandboxes, err := a.cfg.Shim.ListSandboxes(ctx)
	if err != nil {
		return err
	}
	byPod := map[string][]shim.Container{}
	for _, c := range containers {
		byPod[c.SandboxID] = append(byPod[c.SandboxID], c)
	}
	entries, err := os.ReadDir(a.podsDir)
	if err != nil {
		return err
	}
	known := map[string]*pod.Record{}
	for _, e := range entries {
		rec, err := pod.LoadRecord(filepath.Join(a.podsDir, e.Name()))
		if err != nil {
			a.log.Warn("a pod's directory without a readable state: removing what it left", "uid", e.Name(), "error", err)
			a.removeOrphan(ctx, e.Name())
			continue
		}
		known[e.Name()] = rec
	}
	for _, s := range sandboxes {
		if known[s.ID] == nil {
			a.log.Warn("removing the sandbox of an unknown pod", "uid", s.ID)
			a.removeOrphan(ctx, s.ID)
		}
	}
	if err := a.cfg.Network.Retain(ctx, slices.Collect(maps.Keys(known))); err != nil && ctx.Err() == nil {
		a.log.Warn("cannot detach pods that are gone from the network", "error", err)
	}
	for uid, rec := range known {
		a.start(ctx, children, rec, byPod[uid], time.Time{})
	}
	a.mu.Lock()
	a.resumed = true
	a.mu.Unlock()
	return nil
}

// removeOrphan removes all that a pod nobody knows can have left.
func (a *Agent) removeOrphan(ctx context.Context, uid string) {
	err := errors.Join(a.cfg.Network.Detach(ctx, uid), a.cfg.Shim.RemoveSandbox(ctx, uid))
	dir := filepath.Join(a.podsDir, uid)
	if err = errors.Join(err, mount.DetachBelow(dir)); err == nil {
		err = os.RemoveAll(dir) // never through a mount that is still there
	}
	if err != nil {
		a.log.Error("cannot remove what an unknown pod left", "uid", uid, "error", err)
	}
}

// start runs a worker and its poster. seen is when a new pod came, zero for an old one.
func (a *Agent) start(ctx context.Context, children *sync.WaitGroup, rec *pod.Record, known []shim.Container, seen time.Time) *running {
	uid := string(rec.Pod.UID)
	r := &running{worker: pod.NewWorker(a.deps, rec, known), poster: newPoster(a, rec.Pod), seen: seen}
	a.mu.Lock()
	a.pods[uid] = r
	a.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	children.Go(func() { r.poster.run(ctx) })
	a.follow.set(uid, rec.Pod)
	children.Go(func() {
		defer cancel()
		if r.worker.Run(ctx) {
			a.mu.Lock()
			delete(a.pods, uid)
			a.mu.Unlock()
			a.follow.set(uid, nil)
		}
	})
	return r
}

func (a *Agent) running(uid string) *running {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pods[uid]
}

// watchPods hands pods to their workers until ctx ends.
func (a *Agent) watchPods(ctx context.Context, factory informers.SharedInformerFactory, children *sync.WaitGroup) {
	informer := factory.Core().V1().Pods().Informer()
	seen := func(obj any) {
		if p, ok := obj.(*corev1.Pod); ok && p.Spec.NodeName == a.cfg.NodeName {
			a.seen(ctx, children, p)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    seen,
		UpdateFunc: func(_, obj any) { seen(obj) },
		DeleteFunc: func(obj any) {
			if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = t.Obj
			}
			if p, ok := obj.(*corev1.Pod); ok {
				if r := a.running(string(p.UID)); r != nil {
					r.worker.Gone()
				}
			}
		},
	})
	if err != nil {
		a.log.Error("cannot watch pods", "error", err)
		return
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return
	}
	// What is on disk and not in the API was deleted while the agent was away.
	inAPI := map[string]bool{}
	for _, obj := range informer.GetStore().List() {
		inAPI[string(obj.(*corev1.Pod).UID)] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid, r := range a.pods {
		if !inAPI[uid] {
			r.worker.Gone()
		}
	}
}

// seen takes the newest version of a pod of this node. It is called from one goroutine.
func (a *Agent) seen(ctx context.Context, children *sync.WaitGroup, p *corev1.Pod) {
	r := a.running(string(p.UID))
	if r == nil {
		if ended(p.Status.Phase) {
			// It ended before this agent's time; nothing of it is here.
			if p.DeletionTimestamp != nil {
				children.Go(func() {
					if err := (api{a}).Finalize(ctx, p); err != nil && ctx.Err() == nil {
						a.log.Warn("cannot delete an ended pod from the API", "pod", p.Namespace+"/"+p.Name, "error", err)
					}
				})
			}
			return
		}
		now := time.Now()
		rec := pod.NewRecord(p, now)
		a.admit(rec)
		r = a.start(ctx, children, rec, nil, now)
	}
	r.poster.seen(p)
	r.worker.Update(p)
}

// watchExits tells workers of the ends of their containers.
func (a *Agent) watchExits(ctx context.Context) {
	var cursor shim.Cursor
	for ctx.Err() == nil {
		exits, next, err := a.cfg.Shim.Exits(ctx, cursor)
		if err != nil {
			if ctx.Err() == nil {
				a.log.Warn("cannot hear of containers' ends, trying again", "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
			continue
		}
		if cursor.Instance != "" && cursor.Instance != next.Instance {
			a.eachPod(func(r *running) { r.worker.RestoreConsoles(ctx) })
		}
		cursor = next
		a.metrics.exits.Add(float64(len(exits)))
		for _, e := range exits {
			if r := a.running(e.Labels[pod.LabelUID]); r != nil {
				r.worker.Exited(e)
				continue
			}
			if err := a.cfg.Shim.Delete(ctx, e.ContainerID); err != nil && ctx.Err() == nil {
				a.log.Warn("cannot remove a container of no pod", "container", e.ContainerID, "error", err)
			}
		}
	}
}

func (a *Agent) eachPod(f func(*running)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.pods {
		f(r)
	}
}

// refresh has workers compare their volumes with the API now and then.
func (a *Agent) refresh(ctx context.Context) {
	tick := time.NewTicker(refreshInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.mu.Lock()
		for _, r := range a.pods {
			if r.poster.refreshable() {
				r.worker.Refresh()
			}
		}
		a.mu.Unlock()
	}
}

// refreshPods has workers look at their volumes.
func (a *Agent) refreshPods(uids []string) {
	for _, uid := range uids {
		if r := a.running(uid); r != nil {
			r.worker.Refresh()
		}
	}
}

// api is what workers tell the API through.
type api struct{ a *Agent }

func (x api) Publish(p *corev1.Pod, s corev1.PodStatus) {
	if r := x.a.running(string(p.UID)); r != nil {
		if s.Phase == corev1.PodRunning && !r.seen.IsZero() {
			x.a.metrics.podStart.Observe(time.Since(r.seen).Seconds())
			r.seen = time.Time{}
		}
		r.poster.post(s)
	}
}

func (x api) Flush(ctx context.Context, p *corev1.Pod, s corev1.PodStatus) error {
	r := x.a.running(string(p.UID))
	if r == nil {
		return nil
	}
	return r.poster.flush(ctx, s)
}

func (x api) Finalize(ctx context.Context, p *corev1.Pod) error {
	zero, uid := int64(0), p.UID
	err := x.a.cfg.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or another of that name
		return nil
	}
	return err
}

func (x api) Event(p *corev1.Pod, container, eventType, reason, message string) {
	ref := &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion}
	if container != "" {
		ref.FieldPath = "spec.containers{" + container + "}"
		for i := range p.Spec.InitContainers {
			if p.Spec.InitContainers[i].Name == container {
				ref.FieldPath = "spec.initContainers{" + container + "}"
			}
		}
	}
	x.a.events.Event(ref, eventType, reason, message)
}

func (a *Agent) hostIPs() []string {
	var ips []string
	for _, addr := range a.cfg.Address() {
		ips = append(ips, addr.String())
	}
	return ips
}

// servicesFor lists a namespace's Services and default/kubernetes.
func servicesFor(l listers.ServiceLister, namespace string) []*corev1.Service {
	var list []*corev1.Service
	if namespace != "" {
		list, _ = l.Services(namespace).List(labels.Everything())
	}
	if namespace != corev1.NamespaceDefault {
		if k, err := l.Services(corev1.NamespaceDefault).Get("kubernetes"); err == nil {
			list = append(list, k)
		}
	}
	return list
}
