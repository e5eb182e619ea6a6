package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	podsecurity "k8s.io/pod-security-admission/admission"
	securityconfig "k8s.io/pod-security-admission/admission/api"
	securityapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// security enforces the Pod Security Standards that a namespace's labels ask for.
// What it knows of the standards is the module's; here requests are handed to it.
type security struct {
	*admission.Handler
	*podsecurity.Admission
	pods podsecurity.DefaultPodSpecExtractor
}

// newPodSecurity sees pods through client only when a namespace's label changes:
// an informer of all pods on every node would cost more than it saves.
func newPodSecurity(client kubernetes.Interface, shared informers.SharedInformerFactory) (*security, error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("pod security standards: %w", err)
	}
	namespaces := shared.Core().V1().Namespaces()
	s := &security{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		Admission: &podsecurity.Admission{
			Configuration: &securityconfig.PodSecurityConfiguration{Defaults: securityconfig.PodSecurityDefaults{
				Enforce: "privileged", EnforceVersion: "latest", Warn: "privileged", WarnVersion: "latest", Audit: "privileged", AuditVersion: "latest",
			}},
			Evaluator:       hostsUsers{evaluator},
			Metrics:         metrics.NewPrometheusRecorder(securityapi.GetAPIVersion()),
			NamespaceGetter: podsecurity.NamespaceGetterFromListerAndClient(namespaces.Lister(), client),
			PodLister:       podsecurity.PodListerFromClient(client),
		},
	}
	s.SetReadyFunc(namespaces.Informer().HasSynced)
	if err := s.CompleteConfiguration(); err != nil {
		return nil, err
	}
	return s, s.ValidateConfiguration()
}

// hostsUsers judges every pod as one whose users are the host's: the standards ask
// less of pods with hostUsers: false, and nodes have no user namespaces to give them.
type hostsUsers struct{ policy.Evaluator }

// EvaluatePod implements policy.Evaluator.
func (h hostsUsers) EvaluatePod(level securityapi.LevelVersion, m *metav1.ObjectMeta, spec *corev1.PodSpec) []policy.CheckResult {
	if spec != nil && spec.HostUsers != nil {
		seen := *spec
		seen.HostUsers = nil
		spec = &seen
	}
	return h.Evaluator.EvaluatePod(level, m, spec)
}

// Validate implements admission.ValidationInterface.
func (s *security) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	resource := a.GetResource().GroupResource()
	if resource != corev1.Resource("namespaces") && !s.pods.HasPodSpec(resource) {
		return nil
	}
	if !s.WaitForReady() {
		return admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
	}
	result := s.Admission.Validate(ctx, attributes{a})
	for _, text := range result.Warnings {
		warning.AddWarning(ctx, "", text)
	}
	for _, key := range slices.Sorted(maps.Keys(result.AuditAnnotations)) {
		if err := a.AddAnnotation("pod-security.kubernetes.io/"+key, result.AuditAnnotations[key]); err != nil {
			return apierrors.NewInternalError(err)
		}
	}
	if result.Allowed {
		return nil
	}
	// The module's answer may be shared among requests.
	refusal := admission.NewForbidden(a, nil).(*apierrors.StatusError)
	if status := result.Result; status != nil {
		if status.Message != "" {
			refusal = admission.NewForbidden(a, fmt.Errorf("%s", status.Message)).(*apierrors.StatusError)
		}
		if status.Reason != "" {
			refusal.ErrStatus.Reason = status.Reason
		}
		if status.Code != 0 {
			refusal.ErrStatus.Code = status.Code
		}
		if status.Details != nil {
			refusal.ErrStatus.Details = status.Details.DeepCopy()
		}
	}
	return refusal
}

// attributes shows a request to the module: objects here are of the served version.
type attributes struct{ admission.Attributes }

func (a attributes) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(a.Attributes.GetOperation())
}
func (a attributes) GetObject() (runtime.Object, error)    { return a.Attributes.GetObject(), nil }
func (a attributes) GetOldObject() (runtime.Object, error) { return a.Attributes.GetOldObject(), nil }
func (a attributes) GetUserName() string                   { return a.GetUserInfo().GetName() }
