package apiserver

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"

	"kontiki/raftstore/raftstoretest"
)

func clientsetOf(t testing.TB, s *Server, u user.Info, opts ...ClientOption) kubernetes.Interface {
	t.Helper()
	c, err := s.Clientset(u, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// nextOf is the next event of a watch.
func nextOf(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, open := <-w.ResultChan():
		if !open {
			t.Fatal("the watch has ended")
		}
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("the watch tells nothing")
	}
	return watch.Event{}
}

// TestTappedWatches wants a component's watches to have what the API has, without an
// encoder between, and each receiver's fields to be his own.
func TestTappedWatches(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientsetOf(t, s, admin)
	defaultNamespace(t, c)
	first := createPod(t, c, pod("p", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }))
	after := metav1.ListOptions{ResourceVersion: first.ResourceVersion}
	all := map[string]watch.Interface{}
	for name, open := range map[string]func() (watch.Interface, error){
		"tapped":  func() (watch.Interface, error) { return c.CoreV1().Pods("").Watch(t.Context(), after) },
		"another": func() (watch.Interface, error) { return c.CoreV1().Pods("default").Watch(t.Context(), after) },
		"HTTP": func() (watch.Interface, error) {
			return clientOf(t, s, admin).CoreV1().Pods("").Watch(t.Context(), after)
		},
		"metadata": func() (watch.Interface, error) {
			m, err := s.Metadata(admin)
			if err != nil {
				t.Fatal(err)
			}
			return m.Resource(podResource).Namespace("default").Watch(t.Context(), after)
		},
	} {
		w, err := open()
		if err != nil {
			t.Fatal(name, err)
		}
		if _, is := w.(tapped); is == (name == "HTTP") {
			t.Errorf("%s: %T", name, w)
		}
		all[name] = w
	}
	changed := first.DeepCopy()
	changed.Labels = map[string]string{"a": "c"}
	changed, err := c.CoreV1().Pods("default").Update(t.Context(), changed, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]*corev1.Pod{}
	for _, name := range []string{"tapped", "another", "HTTP"} {
		e := nextOf(t, all[name])
		p, ok := e.Object.(*corev1.Pod)
		if !ok || e.Type != watch.Modified || !reflect.DeepEqual(p, changed) {
			t.Fatalf("%s: %s %#v, want %#v", name, e.Type, e.Object, changed)
		}
		seen[name] = p
		p.Labels, p.ManagedFields = nil, nil // as informers do before they keep it
	}
	if seen["tapped"] == seen["another"] || len(seen["tapped"].Spec.Containers) == 0 || &seen["tapped"].Spec.Containers[0] != &seen["another"].Spec.Containers[0] {
		t.Error("the two objects are one, or share nothing")
	}
	partial, ok := nextOf(t, all["metadata"]).Object.(*metav1.PartialObjectMetadata)
	if !ok || partial.Kind != "PartialObjectMetadata" || !reflect.DeepEqual(partial.ObjectMeta, changed.ObjectMeta) {
		t.Errorf("metadata: %#v", partial)
	}
	for name, w := range all {
		w.Stop()
		for range w.ResultChan() { // ends
		}
		_ = name
	}
}

// TestTappedWatchesAreRequests wants a tapped watch to be refused as any other, and to
// end with its request.
func TestTappedWatchesAreRequests(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	_, err := clientsetOf(t, s, &user.DefaultInfo{Name: "nobody"}).CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("nobody watches: %v", err)
	}
	w, err := clientsetOf(t, s, admin).CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{TimeoutSeconds: new(int64(1))})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		t.Errorf("told %v", e)
	}
}

// TestBindWithoutHTTP holds bindings without HTTP against those with it.
func TestBindWithoutHTTP(t *testing.T) {
	store := raftstoretest.New(t)
	s := startServer(t, store)
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	term, err := store.Barrier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		as   user.Info
		term uint64
		pod  func(*corev1.Pod)
		to   func(*corev1.Binding)
	}{
		"bound":             {as: &user.DefaultInfo{Name: user.KubeScheduler, Groups: []string{user.AllAuthenticated}}, term: term},
		"bound already":     {pod: onNode},
		"gated":             {pod: func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a.b/c"}} }},
		"not allowed":       {as: &user.DefaultInfo{Name: "nobody"}},
		"of another term":   {term: term + 1},
		"of another UID":    {to: func(b *corev1.Binding) { b.UID = "other" }},
		"to nowhere":        {to: func(b *corev1.Binding) { b.Target.Name = "" }},
		"in another place":  {to: func(b *corev1.Binding) { b.Namespace = "other" }},
		"of what is not":    {to: func(b *corev1.Binding) { b.Name = "absent" }},
		"of what cannot be": {to: func(b *corev1.Binding) { b.Name = "a/b" }},
	} {
		t.Run(name, func(t *testing.T) {
			as := test.as
			if as == nil {
				as = admin
			}
			var opts []ClientOption
			if test.term != 0 {
				opts = append(opts, WithTerm(test.term))
			}
			bind := func(c kubernetes.Interface, podName string) (said string, bound *corev1.Pod) {
				p := pod(podName)
				if test.pod != nil {
					test.pod(p)
				}
				made := createPod(t, clientOf(t, s, admin), p)
				b := &corev1.Binding{
					ObjectMeta: metav1.ObjectMeta{Name: made.Name, UID: made.UID, Annotations: map[string]string{"k": "v"}},
					Target:     corev1.ObjectReference{Kind: "Node", Name: "n"},
				}
				if test.to != nil {
					test.to(b)
				}
				before := b.DeepCopy()
				err := c.CoreV1().Pods("default").Bind(t.Context(), b, metav1.CreateOptions{})
				if !reflect.DeepEqual(b, before) {
					t.Errorf("the caller's binding became %v", b)
				}
				if err != nil {
					said = strings.ReplaceAll(string(apierrors.ReasonForError(err))+": "+err.Error(), podName, "POD")
				}
				bound, err = clientOf(t, s, admin).CoreV1().Pods("default").Get(t.Context(), podName, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				said = strings.ReplaceAll(said, string(made.UID), "UID")
				return said, bound
			}
			slug := strings.ReplaceAll(name, " ", "-") + "-"
			slug = strings.ToLower(slug)
			wanted, want := bind(clientOf(t, s, as, opts...), slug+"http")
			said, got := bind(clientsetOf(t, s, as, opts...), slug+"here")
			if said != wanted {
				t.Errorf("without HTTP: %s\nwith it: %s", said, wanted)
			}
			if (said == "") != (name == "bound") {
				t.Errorf("said %q", said)
			}
			if got.Spec.NodeName != want.Spec.NodeName || got.Annotations["k"] != want.Annotations["k"] || len(got.Status.Conditions) != len(want.Status.Conditions) {
				t.Errorf("without HTTP: %v\nwith it: %v", got, want)
			}
		})
	}
}

// TestBindingsAreNoted wants the audit log to know of bindings from inside.
func TestBindingsAreNoted(t *testing.T) {
	dir := t.TempDir()
	a := DefaultAudit()
	a.PolicyFile, a.Path = filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	if err := os.WriteFile(a.PolicyFile, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, raftstoretest.New(t), func(c *Config) { c.Audit = a })
	c := clientsetOf(t, s, admin)
	defaultNamespace(t, c)
	made := createPod(t, c, pod("p"))
	if err := c.CoreV1().Pods("default").Bind(t.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: made.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(a.Path); err != nil || !strings.Contains(string(data), "/pods/p/binding") {
		t.Errorf("%v: %s", err, data)
	}
}

// TestBindEndsWithItsCaller wants a binding whose caller has gone to say that.
func TestBindEndsWithItsCaller(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientsetOf(t, s, admin)
	defaultNamespace(t, c)
	createPod(t, c, pod("p"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := c.CoreV1().Pods("default").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{})
	if err == nil || ctx.Err() == nil {
		t.Errorf("bound for nobody: %v", err)
	}
}

// panicking is a storage that makes nothing.
type panicking struct{ rest.NamedCreater }

func (panicking) Create(context.Context, string, runtime.Object, rest.ValidateObjectFunc, *metav1.CreateOptions) (runtime.Object, error) {
	panic("on purpose")
}

// TestBindThatPanics: a panic is this call's alone, as it is with HTTP: its caller is told, and
// what comes after it is served.
func TestBindThatPanics(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientsetOf(t, s, admin)
	defaultNamespace(t, c)
	made := createPod(t, c, pod("p"))
	bind := func() error {
		return c.CoreV1().Pods("default").Bind(t.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: made.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{})
	}
	whole := s.bindings.storage
	s.bindings.storage = panicking{whole}
	if err := bind(); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "This request caused apiserver to panic") {
		t.Errorf("it says %v", err)
	}
	s.bindings.storage = whole
	if err := bind(); err != nil {
		t.Error(err)
	}
}
