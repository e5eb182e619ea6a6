// Package admission holds the admission plugins that are not the library's and
// puts the chain together.
//
// A chain is built once and then used by any number of goroutines. Only
// apiserver imports it.
package admission

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	quotaconfig "k8s.io/apiserver/pkg/admission/plugin/resourcequota/apis/resourcequota"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	libraryquota "k8s.io/apiserver/pkg/quota/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/compatibility"

	"kontiki/apiserver/quota"
)

// immortal namespaces cannot be deleted; the system needs them.
var immortal = sets.New("default", "kube-system", "kube-public")

// excluded are decided on by no webhook and no policy: a wrong one could not be
// taken back, and who asks who he is changes nothing. Upstream's list.
var excluded = []schema.GroupResource{
	{Group: "admissionregistration.k8s.io", Resource: "validatingwebhookconfigurations"},
	{Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"},
	{Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicies"},
	{Group: "admissionregistration.k8s.io", Resource: "validatingadmissionpolicybindings"},
	{Group: "admissionregistration.k8s.io", Resource: "mutatingadmissionpolicies"},
	{Group: "admissionregistration.k8s.io", Resource: "mutatingadmissionpolicybindings"},
	{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"},
	{Group: "authentication.k8s.io", Resource: "tokenreviews"},
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"},
	{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
}

// quotaWorkers is how many requests are counted at once; upstream's number.
const quotaWorkers = 5

// Config is what plugins work with.
type Config struct {
	Client     kubernetes.Interface
	Dynamic    dynamic.Interface
	Shared     informers.SharedInformerFactory // the caller starts it
	Authorizer authorizer.Authorizer
	Mapper     meta.RESTMapper
	Version    compatibility.EffectiveVersion
	Services   webhook.ServiceResolver // where webhooks live that are Services
	Clients    webhook.AuthenticationInfoResolverWrapper
	Stopped    <-chan struct{} // ends what plugins do in the background

	// Tolerations are written into pods that say nothing else.
	Tolerations Tolerations
}

// New returns the chain, in upstream's order.
func New(cfg Config) (admission.Interface, error) {
	namespaces, err := lifecycle.NewLifecycle(immortal)
	if err != nil {
		return nil, err
	}
	mutate, err := mutatingwebhook.NewMutatingWebhook(nil)
	if err != nil {
		return nil, err
	}
	validate, err := validatingwebhook.NewValidatingAdmissionWebhook(nil)
	if err != nil {
		return nil, err
	}
	mutatePolicies, err := mutatingpolicy.NewPlugin(nil)
	if err != nil {
		return nil, err
	}
	validatePolicies, err := validatingpolicy.NewPlugin(nil)
	if err != nil {
		return nil, err
	}
	security, err := newPodSecurity(cfg.Client, cfg.Shared)
	if err != nil {
		return nil, err
	}
	zones, err := newTopologyLabels(cfg.Client, cfg.Shared)
	if err != nil {
		return nil, err
	}
	quotas, err := resourcequota.NewResourceQuota(&quotaconfig.Configuration{}, quotaWorkers)
	if err != nil {
		return nil, err
	}
	plugins := []admission.Interface{
		namespaces, newLimitRanger(cfg.Shared), newServiceAccount(cfg.Client, cfg.Shared),
		newNodeRestriction(cfg.Client, cfg.Authorizer), newNodeTaint(), security,
		newPriority(cfg.Client, cfg.Shared), newDefaultTolerations(cfg.Tolerations), newDefaultStorage(cfg.Shared), newInUse(),
		newResize(cfg.Shared), newRuntimeClass(cfg.Client, cfg.Shared), newSigners(cfg.Authorizer),
		newDefaultIngress(cfg.Shared), zones,
		mutatePolicies, mutate, validatePolicies, validate,
		quotas, // the last: it counts what all others have let through
	}
	schemas, err := newSchemaClient(cfg)
	if err != nil {
		return nil, err
	}
	initializers := admission.PluginInitializers{
		initializer.New(cfg.Client, cfg.Dynamic, cfg.Shared, cfg.Authorizer, utilfeature.DefaultFeatureGate, cfg.Version, cfg.Stopped, cfg.Mapper),
		webhookinit.NewPluginInitializer(cfg.Clients, cfg.Services),
		quotainit{quota.Configuration(cfg.Client)},
		exclude{},
	}
	for _, plugin := range plugins {
		initializers.Initialize(plugin)
		if plugin == mutatePolicies {
			mutatePolicies.SetExternalKubeClientSet(schemas)
		}
		if err := admission.ValidateInitialization(plugin); err != nil {
			return nil, fmt.Errorf("admission plugin %T: %w", plugin, err)
		}
	}
	return admission.NewChainHandler(plugins...), nil
}

// exclude tells plugins what they must not decide on.
type exclude struct{}

// Initialize implements admission.PluginInitializer.
func (exclude) Initialize(plugin admission.Interface) {
	if wants, ok := plugin.(initializer.WantsExcludedAdmissionResources); ok {
		wants.SetExcludedAdmissionResources(excluded)
	}
}

// quotainit tells the plugin ResourceQuota what counts for how much.
type quotainit struct{ configuration libraryquota.Configuration }

// Initialize implements admission.PluginInitializer.
func (i quotainit) Initialize(plugin admission.Interface) {
	if wants, ok := plugin.(initializer.WantsQuotaConfiguration); ok {
		wants.SetQuotaConfiguration(i.configuration)
	}
}
