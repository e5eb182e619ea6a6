package core

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"kontiki/apiserver/allocate"
	"kontiki/apiserver/kind"
)

// allocationAttempts bounds how often a Service is written anew because what was
// chosen for it was taken meanwhile. Choices are random, so two are rarely needed.
const allocationAttempts = 16

// extendServices gives Services their addresses and ports.
func extendServices(in kind.Storages, cfg Config) (kind.Storages, error) {
	main := in["services"].(*kind.REST)
	r := &serviceREST{REST: main, cfg: cfg}
	nothing := func(context.Context, bool) {}
	main.Store.BeginCreate = func(ctx context.Context, obj runtime.Object, _ *metav1.CreateOptions) (registry.FinishFunc, error) {
		return nothing, r.begin(ctx, obj.(*corev1.Service), nil)
	}
	main.Store.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, _ *metav1.UpdateOptions) (registry.FinishFunc, error) {
		return nothing, r.begin(ctx, obj.(*corev1.Service), old.(*corev1.Service))
	}
	in["services"] = r
	in["services/proxy"] = serviceProxy(main, cfg.Slices, cfg.Pods)
	return in, nil
}

// serviceREST writes a Service again, with another choice, when its first choice
// of an address or port was taken between the choice and the write.
type serviceREST struct {
	*kind.REST
	cfg Config
}

// Create implements rest.Creater.
func (r *serviceREST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	var out runtime.Object
	err := r.retry(ctx, func() (err error) {
		out, err = r.REST.Create(ctx, obj.DeepCopyObject(), validate, options)
		return err
	})
	return out, err
}

// Update implements rest.Updater.
func (r *serviceREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	var out runtime.Object
	var created bool
	err := r.retry(ctx, func() (err error) {
		out, created, err = r.REST.Update(ctx, name, info, createValidation, updateValidation, forceAllowCreate, options)
		return err
	})
	return out, created, err
}

func (r *serviceREST) retry(ctx context.Context, write func() error) error {
	var refused error
	for range allocationAttempts {
		err := write()
		var taken *allocate.TakenError
		if !errors.As(err, &taken) && !errors.Is(err, allocate.ErrRangeChanged) {
			return err
		}
		refused = err
		// Wait until the winner is seen here: a choice is then made among what is
		// free, and what the user asked for by name gets a clear refusal.
		if err := r.cfg.Ledger.Refresh(ctx); err != nil {
			return unknownFree(err)
		}
	}
	return apierrors.NewTooManyRequests(fmt.Sprintf("too many Services are created at once: %v", refused), 1)
}

// begin chooses for a Service that is valid. The library calls it before it
// prepares and validates the object, so both happen here once before; what is
// wrong is told by the library then.
func (r *serviceREST) begin(ctx context.Context, s, old *corev1.Service) error {
	prepareService(ctx, s, old)
	if errs := r.families(s, old); len(errs) > 0 {
		return invalidService(s, errs)
	}
	if old == nil {
		if len(validateService(s)) > 0 {
			return nil
		}
	} else if len(validateServiceUpdate(s, old)) > 0 {
		return nil
	}
	candidate := s.DeepCopy()
	if err := r.allocate(ctx, candidate, old); err != nil {
		// This node's replica may be behind what others have given back: refuse
		// only what the newest state refuses, too.
		if err := r.cfg.Ledger.Refresh(ctx); err != nil {
			return unknownFree(err)
		}
		candidate = s.DeepCopy()
		if err := r.allocate(ctx, candidate, old); err != nil {
			return err
		}
	}
	*s = *candidate
	return nil
}

func invalidService(s *corev1.Service, errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}

func unknownFree(err error) error {
	return apierrors.NewServiceUnavailable(fmt.Sprintf("the store cannot be asked which addresses and ports are free: %v", err))
}

// allocate chooses what s needs and does not have. The choice counts once the
// Service is written.
func (r *serviceREST) allocate(ctx context.Context, s, old *corev1.Service) error {
	held := map[string]bool{}
	if old != nil {
		for _, key := range ServiceHoldings(old) {
			held[key] = true
		}
	}
	if err := r.addresses(ctx, s, held); err != nil {
		return err
	}
	return r.nodePorts(s, held)
}

// addresses chooses an address of each family that s has, and checks those that were
// asked for.
func (r *serviceREST) addresses(ctx context.Context, s *corev1.Service, held map[string]bool) error {
	if !hasClusterIP(s) || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	for i, family := range s.Spec.IPFamilies {
		ips := r.ipsOf(family)
		if i >= len(s.Spec.ClusterIPs) {
			ip, err := ips.Pick(ctx)
			if err != nil {
				return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %w", err))
			}
			s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip.String())
			continue
		}
		text := s.Spec.ClusterIPs[i]
		ip, err := netip.ParseAddr(text)
		if err == nil && held[allocate.IPKey(ip)] {
			continue
		}
		if err == nil {
			err = ips.Check(ctx, ip)
		}
		if err != nil {
			return invalidService(s, field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %v: %v", text, err))})
		}
	}
	if len(s.Spec.ClusterIPs) > 0 {
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
	return nil
}

func (r *serviceREST) nodePorts(s *corev1.Service, held map[string]bool) error {
	if !mayHaveNodePorts(s) {
		return nil
	}
	ports := field.NewPath("spec", "ports")
	for i, p := range s.Spec.Ports {
		if p.NodePort == 0 {
			continue
		}
		if err := r.nodePort(p.NodePort, held); err != nil {
			return invalidService(s, field.ErrorList{field.Invalid(ports.Index(i).Child("nodePort"), p.NodePort, err.Error())})
		}
	}
	if hasNodePorts(s) {
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			if p.NodePort != 0 {
				continue
			}
			// The same port for another protocol has the same node port (DNS).
			if twin := twinOf(s, i); twin != 0 {
				p.NodePort = twin
				continue
			}
			port, err := r.cfg.NodePorts.Pick(func(n int32) bool { return slices.Contains(nodePortsOf(s), n) || n == s.Spec.HealthCheckNodePort })
			if err != nil {
				return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
			}
			p.NodePort = port
		}
	}
	return r.healthCheckPort(s, held)
}

// nodePort tells why port cannot be given to the Service that holds held.
func (r *serviceREST) nodePort(port int32, held map[string]bool) error {
	low, high := r.cfg.NodePorts.Range()
	switch {
	case held[allocate.PortKey(port)]:
	case !r.cfg.NodePorts.Contains(port):
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", low, high)
	case !r.cfg.NodePorts.Free(port):
		return allocate.ErrPortAllocated
	}
	return nil
}

// twinOf returns the node port of the same port under another protocol.
func twinOf(s *corev1.Service, i int) int32 {
	for j, p := range s.Spec.Ports {
		if j != i && p.Port == s.Spec.Ports[i].Port && p.Protocol != s.Spec.Ports[i].Protocol && p.NodePort != 0 {
			return p.NodePort
		}
	}
	return 0
}

func (r *serviceREST) healthCheckPort(s *corev1.Service, held map[string]bool) error {
	if !needsHealthCheckPort(s) {
		return nil
	}
	if asked := s.Spec.HealthCheckNodePort; asked != 0 {
		if err := r.nodePort(asked, held); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %v: %w", asked, err))
		}
		return nil
	}
	port, err := r.cfg.NodePorts.Pick(func(n int32) bool { return slices.Contains(nodePortsOf(s), n) })
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort %v: %w", 0, err))
	}
	s.Spec.HealthCheckNodePort = port
	return nil
}
