package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"kontiki/runtime/mount"
)

// What the node and the local-path provisioner of the controllers agree on.
const (
	// LocalPathProvisioner is in the annotation pv.kubernetes.io/provisioned-by of
	// volumes whose directories this agent makes and removes.
	LocalPathProvisioner = "kontiki.io/local-path"
	// LocalPathFinalizer keeps such a volume's object until its directory is gone.
	LocalPathFinalizer = "kontiki.io/local-path"
	// VolumesPathAnnotation on a Node says below which directory its volumes lie.
	VolumesPathAnnotation = "kontiki.io/volumes-path"
	// directoryMade on a PersistentVolume says that its directory was made: one
	// that is missing afterwards was lost, and is not made anew.
	directoryMade = "kontiki.io/directory-made"

	provisionedBy         = "pv.kubernetes.io/provisioned-by"
	volumeProtection      = "kubernetes.io/pv-protection"
	localPathRetryFirst   = 200 * time.Millisecond
	localPathRetryLongest = 30 * time.Second
)

// localPaths makes and removes the directories of this node's local-path volumes:
// ROOT/NAME, where NAME is the volume's.
type localPaths struct {
	client   kubernetes.Interface
	nodeName string
	root     string
	events   record.EventRecorder
	log      *slog.Logger
	inUse    func(volume string) bool // by a pod that is on this node
}

// ours: the volume is one whose directory this agent looks after.
func (l *localPaths) ours(v *corev1.PersistentVolume) bool {
	return v.Annotations[provisionedBy] == LocalPathProvisioner && v.Spec.Local != nil && l.within(v.Spec.Local.Path, v.Name) &&
		v.Labels[corev1.LabelHostname] == l.nodeName
}

// within: the path is ROOT/NAME, or was when the data directory was behind a link.
func (l *localPaths) within(path, name string) bool {
	if path == filepath.Join(l.root, name) {
		return true
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return err == nil && dir == l.root && filepath.Base(path) == name
}

// make makes the directory of a volume that is used for the first time. Any user of a pod may write there;
// nobody else gets that far, since the data directory is root's alone.
func (l *localPaths) make(ctx context.Context, v *corev1.PersistentVolume) error {
	if !l.ours(v) || v.Annotations[directoryMade] != "" {
		return nil
	}
	if err := os.MkdirAll(l.root, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(v.Spec.Local.Path, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Chmod(v.Spec.Local.Path, 0o777); err != nil { // beyond the umask
		return err
	}
	if err := syncDir(l.root); err != nil {
		return err
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"annotations":{%q:"yes"}}}`, v.UID, directoryMade)
	if _, err := l.client.CoreV1().PersistentVolumes().Patch(ctx, v.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("note that the directory of volume %s was made: %w", v.Name, err)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// run removes the directories of volumes that are deleted, until ctx ends.
func (l *localPaths) run(ctx context.Context) {
	factory := informers.NewSharedInformerFactoryWithOptions(l.client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.LabelSelector = corev1.LabelHostname + "=" + l.nodeName
	}))
	defer factory.Shutdown()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	volumes := factory.Core().V1().PersistentVolumes()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](localPathRetryFirst, localPathRetryLongest))
	add := func(obj any) {
		if v, ok := obj.(*corev1.PersistentVolume); ok && v.DeletionTimestamp != nil && l.ours(v) {
			queue.Add(v.Name)
		}
	}
	if _, err := volumes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) }}); err != nil {
		l.log.Error("cannot watch volumes", "error", err)
		return
	}
	lister := volumes.Lister()
	factory.Start(ctx.Done())
	stop := context.AfterFunc(ctx, queue.ShutDown)
	defer stop()
	for l.next(ctx, queue, lister) {
	}
}

func (l *localPaths) next(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string], lister corelisters.PersistentVolumeLister) bool {
	name, shutdown := queue.Get()
	if shutdown {
		return false
	}
	defer queue.Done(name)
	err := l.remove(ctx, lister, name)
	if err == nil || ctx.Err() != nil {
		queue.Forget(name)
		return ctx.Err() == nil
	}
	if !apierrors.IsConflict(err) {
		l.log.Warn("cannot remove a volume's directory yet", "volume", name, "error", err)
	}
	queue.AddRateLimited(name)
	return true
}

// remove removes the directory of a volume that is being deleted and that nobody
// can use any more, then lets the object go. Data that is to be retained stays.
func (l *localPaths) remove(ctx context.Context, lister corelisters.PersistentVolumeLister, name string) error {
	v, err := lister.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !l.removable(v) {
		return nil // the event that changes this comes here again
	}
	if l.inUse(name) {
		return fmt.Errorf("volume %s is still mounted by a pod of this node", name)
	}
	if ctx.Err() != nil { // workers end, and what they said is worth nothing
		return ctx.Err()
	}
	// The watch may be of a replica that lags: what destroys data asks the quorum.
	uid := v.UID
	v, err = l.client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if v.UID != uid || !l.removable(v) {
		return nil
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		if err := removeTree(v.Spec.Local.Path); err != nil {
			l.events.Event(v, corev1.EventTypeWarning, "VolumeFailedDelete", err.Error())
			return err
		}
	}
	v = v.DeepCopy()
	v.Finalizers = slices.DeleteFunc(v.Finalizers, func(f string) bool { return f == LocalPathFinalizer })
	_, err = l.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// removable: the volume is deleted, and waits for this agent alone.
func (l *localPaths) removable(v *corev1.PersistentVolume) bool {
	return v.DeletionTimestamp != nil && l.ours(v) && slices.Contains(v.Finalizers, LocalPathFinalizer) && !slices.Contains(v.Finalizers, volumeProtection)
}

// removeTree removes a directory and all in it, and nothing that is mounted there.
func removeTree(dir string) error {
	mounts, err := mount.Points(dir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("something is mounted at %s", mounts[0])
	}
	return os.RemoveAll(dir)
}
