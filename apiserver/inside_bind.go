package apiserver

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"kontiki/apiserver/storage"
)

// callTimeout ends a call that its caller does not end; the library's bound for writes.
const callTimeout = 34 * time.Second

// caller makes calls of a component without HTTP: who may make them, admission, fencing
// and what is stored are the same; there is nothing to encode, to negotiate or to route.
type caller struct {
	server *Server
	user   user.Info
	term   uint64
}

func (s *Server) caller(u user.Info, opts ...ClientOption) *caller {
	var t memoryTransport
	for _, opt := range opts {
		opt(&t)
	}
	return &caller{s, u, t.term}
}

// shortcut tells whether a call may be made so now. Where requests are noted, they are
// noted by the handlers of HTTP; and these answer while a server starts or stops.
func (c *caller) shortcut() bool {
	return c.server.audit == nil && c.server.handler.Load() != nil && !c.server.stopping.Load()
}

// bindings is how pods are bound in this server.
type bindings struct {
	storage   rest.NamedCreater
	admission admission.Interface
	objects   admission.ObjectInterfaces
	authorize authorizer.Authorizer
}

var (
	bindingKind = corev1.SchemeGroupVersion.WithKind("Binding")
	podResource = corev1.SchemeGroupVersion.WithResource("pods")
)

// bind is a POST to /api/v1/namespaces/{namespace}/pods/{name}/binding. The binding
// stays the caller's.
func (c *caller) bind(outer context.Context, namespace string, binding *corev1.Binding, options metav1.CreateOptions) error {
	began := time.Now()
	// As in memoryTransport: a request of its own, which ends with the caller's.
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	defer context.AfterFunc(outer, cancel)()
	ctx = request.WithNamespace(request.WithUser(ctx, c.user), namespace)
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{
		IsResourceRequest: true, Verb: "create", APIPrefix: "api", APIVersion: "v1", Namespace: namespace,
		Resource: "pods", Subresource: "binding", Name: binding.Name, Parts: []string{"pods", binding.Name, "binding"},
		Path: strings.Join([]string{"/api/v1/namespaces", namespace, "pods", binding.Name, "binding"}, "/"),
	})
	if c.term != 0 {
		ctx = storage.WithTerm(ctx, c.term)
	}
	err := c.bindAs(ctx, namespace, binding.DeepCopy(), &options)
	code := http.StatusCreated
	if err != nil {
		status := responsewriters.ErrorToAPIStatus(err)
		code, err = int(status.Code), apierrors.FromObject(status)
	}
	metrics.MonitorRequest((&http.Request{Method: http.MethodPost, URL: &url.URL{}}).WithContext(ctx), http.MethodPost, "", "v1", "pods", "binding",
		"resource", metrics.APIServerComponent, false, "", code, 0, time.Since(began))
	if err != nil && outer.Err() != nil {
		return outer.Err()
	}
	return err
}

func (c *caller) bindAs(ctx context.Context, namespace string, binding *corev1.Binding, options *metav1.CreateOptions) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.server.log.Error("binding a pod panicked", "pod", namespace+"/"+binding.Name, "panic", p, "stack", string(debug.Stack()))
			// What the library's handlers of HTTP answer, as a client reads it.
			err = apierrors.NewGenericServerResponse(http.StatusInternalServerError, http.MethodPost, podResource.GroupResource(), binding.Name,
				"This request caused apiserver to panic. Look in the logs for details.", 0, true)
		}
	}()
	if err := c.server.generic.NonLongRunningRequestWaitGroup.Add(1); err != nil {
		return apierrors.NewServiceUnavailable("the API server of this node is stopping")
	}
	defer c.server.generic.NonLongRunningRequestWaitGroup.Done()
	b := c.server.bindings
	attributes := authorizer.AttributesRecord{
		User: c.user, Verb: "create", Namespace: namespace, APIVersion: "v1", Resource: "pods", Subresource: "binding", Name: binding.Name, ResourceRequest: true,
	}
	decision, reason, err := b.authorize.Authorize(ctx, attributes)
	switch {
	case decision == authorizer.DecisionAllow:
	case err != nil:
		return apierrors.NewInternalError(err)
	default:
		return responsewriters.ForbiddenStatusError(attributes, reason)
	}
	if errs := validation.ValidateCreateOptions(options); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "CreateOptions"}, "", errs)
	}
	if err := rest.EnsureObjectNamespaceMatchesRequestNamespace(namespace, binding); err != nil {
		return err
	}
	what := admission.NewAttributesRecord(binding, nil, bindingKind, namespace, binding.Name, podResource, "binding", admission.Create, options, dryrun.IsDryRun(options.DryRun), c.user)
	if mutating, ok := b.admission.(admission.MutationInterface); ok && mutating.Handles(admission.Create) {
		if err := mutating.Admit(ctx, what, b.objects); err != nil {
			return err
		}
	}
	// Of a pod that is bound nothing is answered.
	_, err = b.storage.Create(storage.WithoutOutcome(ctx), binding.Name, binding, rest.AdmissionToValidateObjectFunc(b.admission, what, b.objects), options)
	return err
}

// bindable remembers how pods are bound, of all that a server serves.
func (s *Server) bindable(served map[string]rest.Storage, c *chain, scheme *runtime.Scheme, mapper runtime.EquivalentResourceMapper) error {
	binder, ok := served["pods/binding"].(rest.NamedCreater)
	if !ok {
		return errors.New("apiserver: there is no way to bind pods")
	}
	s.bindings = bindings{
		storage: binder, admission: c.admission, authorize: c.authorization,
		objects: &admission.RuntimeObjectInterfaces{
			ObjectCreater: scheme, ObjectTyper: scheme, ObjectDefaulter: scheme, ObjectConvertor: scheme, EquivalentResourceMapper: mapper,
		},
	}
	return nil
}
