package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	storage "k8s.io/component-helpers/storage/volume"
)

// bindTimeout is how long a pod's volumes may take to be bound; upstream's.
const bindTimeout = 10 * time.Minute

// volumeStore is what is known of volumes: the caches, and choices that these do not
// show yet. It is safe for concurrent use.
type volumeStore struct {
	informers []cache.SharedIndexInformer
	claims    corelisters.PersistentVolumeClaimLister
	volumes   corelisters.PersistentVolumeLister
	classes   storagelisters.StorageClassLister

	mu      sync.Mutex // protects what follows
	assumed assumedVolumes
	changed chan struct{} // closed at the next change of anything that is waited for
}

func newVolumeStore(shared informers.SharedInformerFactory) *volumeStore {
	claims, volumes, classes := shared.Core().V1().PersistentVolumeClaims(), shared.Core().V1().PersistentVolumes(), shared.Storage().V1().StorageClasses()
	return &volumeStore{
		informers: []cache.SharedIndexInformer{claims.Informer(), volumes.Informer(), classes.Informer()},
		claims:    claims.Lister(), volumes: volumes.Lister(), classes: classes.Lister(),
		assumed: newAssumedVolumes(), changed: make(chan struct{}),
	}
}

// view is how volumes are now.
func (s *volumeStore) view() volumeView {
	s.mu.Lock()
	assumed := s.assumed.clone()
	s.mu.Unlock()
	return volumeView{
		assumed: assumed,
		claim: func(namespace, name string) *corev1.PersistentVolumeClaim {
			claim, err := s.claims.PersistentVolumeClaims(namespace).Get(name)
			if err != nil {
				return nil
			}
			return claim
		},
		volume: func(name string) *corev1.PersistentVolume {
			v, err := s.volumes.Get(name)
			if err != nil {
				return nil
			}
			return v
		},
		class: func(name string) *storagev1.StorageClass {
			class, err := s.classes.Get(name)
			if err != nil {
				return nil
			}
			return class
		},
		volumes: s.ofClass,
	}
}

func (s *volumeStore) ofClass(class string) []*corev1.PersistentVolume {
	all, err := s.volumes.List(labels.Everything())
	if err != nil {
		return nil // a lister that reads a cache does not fail
	}
	of := all[:0:0]
	for _, v := range all {
		free := v.Status.Phase != corev1.VolumeBound && v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed
		if free && storage.GetPersistentVolumeClass(v) == class {
			of = append(of, v)
		}
	}
	return of
}

func (s *volumeStore) assume(v podVolumes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.assumed.add(v)
}

func (s *volumeStore) drop(v podVolumes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.assumed.drop(v)
}

// notify wakes those who wait for volumes.
func (s *volumeStore) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *volumeStore) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// watchVolumes has changes of volumes wake what waits for them.
func (s *Scheduler) watchVolumes() (stop func(), synced []cache.InformerSynced, err error) {
	var undo []func()
	stop = func() {
		for _, u := range undo {
			u()
		}
	}
	for _, informer := range s.volumes.informers {
		heard := func(obj any, what string) {
			s.volumes.notify()
			s.happened(change{event: storageChanged, stored: storedKind(obj) + what})
		}
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { heard(obj, "Add") },
			UpdateFunc: func(_, after any) { heard(after, "Update") },
			DeleteFunc: func(obj any) { heard(obj, "Delete") },
		})
		if err != nil {
			stop()
			return nil, nil, err
		}
		undo = append(undo, func() { _ = informer.RemoveEventHandler(registration) }) // only an informer that never had it refuses
		synced = append(synced, registration.HasSynced)
	}
	return stop, synced, nil
}

// bindVolumes has a pod's claims bound, beside all other work, and then the pod.
func (s *Scheduler) bindVolumes(ctx context.Context, d decision) {
	s.volumes.assume(d.volumes)
	s.writes.Go(func() {
		defer s.contain("binding volumes", d.pod.UID)
		err := func() error {
			defer s.volumes.drop(d.volumes)
			return s.settleVolumes(ctx, d)
		}()
		if err == nil {
			s.write(ctx, d.pod.UID, func() { s.bind(ctx, d) })
			return
		}
		s.cache.forget(d.pod.UID)
		if ctx.Err() != nil {
			return
		}
		s.metrics.tried(d, resultError)
		s.requeue(d.pod.UID, help{})
		if !apierrors.IsConflict(err) {
			s.tell(d.pod, d.pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "running PreBind plugin %q: binding volumes: %v", "VolumeBinding", err)
		}
	})
}

// settleVolumes writes what was chosen and waits until the claims are bound.
func (s *Scheduler) settleVolumes(ctx context.Context, d decision) error {
	ctx, cancel := context.WithTimeout(ctx, bindTimeout)
	defer cancel()
	for _, b := range d.volumes.bind {
		v, differs, err := storage.GetBindVolumeToClaim(b.volume, b.claim)
		if err == nil && differs {
			_, err = s.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{})
		}
		if err != nil {
			return err
		}
	}
	written := map[types.UID]string{}
	for _, claim := range d.volumes.provision {
		if claim.Annotations[storage.AnnSelectedNode] == d.node {
			continue
		}
		update := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&update.ObjectMeta, storage.AnnSelectedNode, d.node)
		update, err := s.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, update, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		written[claim.UID] = update.ResourceVersion
	}
	for {
		changed := s.volumes.next()
		done, err := s.volumes.settled(d, written)
		if done || err != nil {
			return err
		}
		if pod, there, err := s.watched.pods.GetStore().GetByKey(d.pod.Namespace + "/" + d.pod.Name); err == nil && (!there || pod.(*corev1.Pod).UID != d.pod.UID) {
			return fmt.Errorf("pod %s/%s is gone", d.pod.Namespace, d.pod.Name)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// settled says whether the claims of a pod are bound, to volumes that its node can
// use. An error means that they will not be: it is for the scheduler to choose again.
func (s *volumeStore) settled(d decision, written map[types.UID]string) (bool, error) {
	for _, claim := range d.volumes.claims() {
		now, err := s.claims.PersistentVolumeClaims(claim.Namespace).Get(claim.Name)
		if err != nil {
			return false, err
		}
		if now.UID != claim.UID {
			return false, apierrors.NewNotFound(corev1.Resource("persistentvolumeclaims"), claim.Name)
		}
		if fullyBound(now) {
			node, err := s.usable(now, d)
			if !node || err != nil {
				return false, err
			}
			continue
		}
		if at, ours := written[claim.UID]; ours && reached(now.ResourceVersion, at) && now.Annotations[storage.AnnSelectedNode] != d.node {
			return false, fmt.Errorf("selectedNode annotation reset for PVC %q", claim.Name)
		}
		return false, nil
	}
	return true, nil
}

// usable: the cache has the claim's volume, and the volume can be used on the pod's node.
func (s *volumeStore) usable(claim *corev1.PersistentVolumeClaim, d decision) (bool, error) {
	v, err := s.volumes.Get(claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := storage.CheckNodeAffinity(v, d.volumes.node.Labels); err != nil {
		return false, fmt.Errorf("pv %q node affinity doesn't match node %q: %w", v.Name, d.node, err)
	}
	return true, nil
}

func reached(at, wanted string) bool {
	c, err := resourceversion.CompareResourceVersion(at, wanted)
	return err == nil && c >= 0
}

// storedKind is upstream's name of what the volumes' informers hold.
func storedKind(obj any) string {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	switch obj.(type) {
	case *corev1.PersistentVolumeClaim:
		return "PersistentVolumeClaim"
	case *corev1.PersistentVolume:
		return "PersistentVolume"
	default:
		return "storage.k8s.io/StorageClass"
	}
}
