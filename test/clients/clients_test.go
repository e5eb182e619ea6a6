package clients

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// TestInformer follows ConfigMaps through an informer of client-go.
func TestInformer(t *testing.T) {
	c := client(t)
	namespace(t, c, "informed")
	maps := c.CoreV1().ConfigMaps("informed")
	const n = 50
	for i := range n / 2 {
		if _, err := maps.Create(t.Context(), numbered(i), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	factory := informers.NewSharedInformerFactoryWithOptions(c, 0, informers.WithNamespace("informed"))
	informer := factory.Core().V1().ConfigMaps().Informer()
	var updates, deletes atomic.Int64
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, _ any) { updates.Add(1) },
		DeleteFunc: func(any) { deletes.Add(1) },
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer func() { cancel(); factory.Shutdown() }()
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("the informer does not come up")
	}
	for i := n / 2; i < n; i++ {
		if _, err := maps.Create(t.Context(), numbered(i), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		changed := numbered(i)
		changed.Data = map[string]string{"changed": "yes"}
		if _, err := maps.Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "half=odd"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the informer to know all", func(context.Context) error {
		if u, d := updates.Load(), deletes.Load(); u < n || d != n/2 {
			return fmt.Errorf("%d updates, %d deletions", u, d)
		}
		return nil
	})
}

func numbered(i int) *corev1.ConfigMap {
	half := "even"
	if i%2 == 1 {
		half = "odd"
	}
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n-%d", i), Namespace: "informed", Labels: map[string]string{"half": half}}}
}

// TestApply has two managers of one object.
func TestApply(t *testing.T) {
	c := client(t)
	namespace(t, c, "applied")
	maps := c.CoreV1().ConfigMaps("applied")
	first := applycorev1.ConfigMap("shared", "applied").WithData(map[string]string{"a": "1", "b": "1"})
	if _, err := maps.Apply(t.Context(), first, metav1.ApplyOptions{FieldManager: "first"}); err != nil {
		t.Fatal(err)
	}
	second := applycorev1.ConfigMap("shared", "applied").WithData(map[string]string{"b": "2", "c": "2"})
	if _, err := maps.Apply(t.Context(), second, metav1.ApplyOptions{FieldManager: "second"}); !apierrors.IsConflict(err) {
		t.Fatalf("apply of another's field: %v", err)
	}
	if _, err := maps.Apply(t.Context(), second, metav1.ApplyOptions{FieldManager: "second", Force: true}); err != nil {
		t.Fatal(err)
	}
	// What the first no longer asks for goes, unless it is the second's by now.
	got, err := maps.Apply(t.Context(), applycorev1.ConfigMap("shared", "applied"), metav1.ApplyOptions{FieldManager: "first"})
	if err != nil || len(got.Data) != 2 || got.Data["b"] != "2" || got.Data["c"] != "2" {
		t.Errorf("after the first has let go: %v %v", got.Data, err)
	}
	extracted, err := applycorev1.ExtractConfigMap(got, "second")
	if err != nil || len(extracted.Data) != 2 {
		t.Errorf("the second's own: %v %v", extracted, err)
	}
}

// TestManager runs two managers of controller-runtime of which one leads: it gives
// each marked ConfigMap a Secret, and when it ends the other goes on.
func TestManager(t *testing.T) {
	c := client(t)
	namespace(t, c, "managed")
	first, stopFirst := startManager(t, "first")
	eventually(t, "the first to lead", func(context.Context) error { return leads(first) })
	second, stopSecond := startManager(t, "second")
	defer stopSecond()
	mark := func(name string) {
		t.Helper()
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "managed", Labels: map[string]string{"secret": "please"}}}
		if _, err := c.CoreV1().ConfigMaps("managed").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the secret of "+name, func(ctx context.Context) error {
			_, err := c.CoreV1().Secrets("managed").Get(ctx, name, metav1.GetOptions{})
			return err
		})
	}
	mark("one")
	if leads(second) == nil {
		t.Error("both lead")
	}
	stopFirst()
	eventually(t, "the second to lead", func(context.Context) error { return leads(second) })
	mark("two")
	// The garbage collector takes what the managers have made with its owner.
	if err := c.CoreV1().ConfigMaps("managed").Delete(t.Context(), "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the secret of one to go", func(ctx context.Context) error {
		_, err := c.CoreV1().Secrets("managed").Get(ctx, "one", metav1.GetOptions{})
		if err == nil {
			return errors.New("it is there")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

func leads(m ctrl.Manager) error {
	select {
	case <-m.Elected():
		return nil
	default:
		return errors.New("it does not")
	}
}

func startManager(t *testing.T, name string) (m ctrl.Manager, stop func()) {
	t.Helper()
	yes := true
	lease, renew, retry := 6*time.Second, 4*time.Second, time.Second
	m, err := ctrl.NewManager(config(t), ctrl.Options{
		LeaderElection: true, LeaderElectionID: "managers", LeaderElectionNamespace: "managed", LeaderElectionReleaseOnCancel: true,
		LeaseDuration: &lease, RenewDeadline: &renew, RetryPeriod: &retry,
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: ctrlconfig.Controller{SkipNameValidation: &yes},
	})
	if err != nil {
		t.Fatal(err)
	}
	err = ctrl.NewControllerManagedBy(m).Named(name).For(&corev1.ConfigMap{}).Owns(&corev1.Secret{}).Complete(&giver{m.GetClient()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Start(ctx) }()
	return m, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("manager %s: %v", name, err)
		}
	}
}

// giver gives each ConfigMap that asks for it a Secret of its name.
type giver struct{ ctrlclient.Client }

// Reconcile implements reconcile.Reconciler.
func (g *giver) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var cm corev1.ConfigMap
	if err := g.Get(ctx, req.NamespacedName, &cm); err != nil {
		return ctrl.Result{}, ctrlclient.IgnoreNotFound(err)
	}
	if cm.Labels["secret"] == "" || cm.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: cm.Name, Namespace: cm.Namespace}}
	_, err := controllerutil.CreateOrUpdate(ctx, g.Client, secret, func() error {
		return controllerutil.SetControllerReference(&cm, secret, g.Scheme())
	})
	return ctrl.Result{}, err
}
