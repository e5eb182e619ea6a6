package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"kontiki/apiserver/podrefs"
)

const (
	// defaultAccount is whose pods are that name none.
	defaultAccount = "default"
	// tokenVolume begins the name of the volume with a pod's token.
	tokenVolume = "kube-api-access-"
	// tokenPath is where containers find token, ca.crt and namespace.
	tokenPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	// tokenSeconds is the life of a token in such a volume. The seven seconds tell
	// the API server that the kubelet asks, upstream's convention.
	tokenSeconds = int64(60*60 + 7)
	// rootCA is the ConfigMap with the cluster's authority, kept in every namespace.
	rootCA = "kube-root-ca.crt"
	// enforceMountable on an account lets its pods use only the Secrets it names.
	enforceMountable = "kubernetes.io/enforce-mountable-secrets"
)

// How long a new namespace's default account is waited for.
const (
	accountPoll  = 150 * time.Millisecond
	accountTries = 10
)

// serviceAccount gives every pod an account that exists, with its token and its
// pull secrets: upstream's plugin ServiceAccount.
type serviceAccount struct {
	*admission.Handler
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
}

func newServiceAccount(client kubernetes.Interface, shared informers.SharedInformerFactory) *serviceAccount {
	accounts := shared.Core().V1().ServiceAccounts()
	s := &serviceAccount{admission.NewHandler(admission.Create, admission.Update), client, accounts.Lister()}
	s.SetReadyFunc(accounts.Informer().HasSynced)
	return s
}

// Admit implements admission.MutationInterface.
func (s *serviceAccount) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	pod, err := newPod(a)
	if pod == nil || err != nil {
		return err
	}
	if mirrored(pod) { // its node wrote it, and would not know it again
		return s.Validate(ctx, a, o)
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := s.account(ctx, a, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if automounts(account, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	return s.Validate(ctx, a, o)
}

// Validate implements admission.ValidationInterface.
func (s *serviceAccount) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := podOf(a)
	if pod == nil || err != nil {
		return err
	}
	switch {
	case a.GetOperation() == admission.Update && a.GetSubresource() == "ephemeralcontainers":
	case a.GetOperation() == admission.Create && a.GetSubresource() == "":
		if mirrored(pod) {
			if err := mirrorRules(pod); err != nil {
				return admission.NewForbidden(a, err)
			}
			return nil
		}
	default:
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		return admission.NewForbidden(a, fmt.Errorf("no service account specified for pod %s/%s", a.GetNamespace(), pod.Name))
	}
	account, err := s.account(ctx, a, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if enforce, _ := strconv.ParseBool(account.Annotations[enforceMountable]); enforce {
		if err := mountable(account, pod, a.GetSubresource() == ""); err != nil {
			return admission.NewForbidden(a, err)
		}
	}
	return nil
}

// account looks an account up. That of a new namespace may be a moment away.
func (s *serviceAccount) account(ctx context.Context, a admission.Attributes, name string) (*corev1.ServiceAccount, error) {
	if !s.WaitForReady() {
		return nil, admission.NewForbidden(a, errNotReady)
	}
	account, err := s.accounts.ServiceAccounts(a.GetNamespace()).Get(name)
	if err == nil {
		return account, nil
	}
	tries := 1
	if name == defaultAccount {
		tries = accountTries
	}
	for try := range tries {
		if try > 0 && !pause(ctx, accountPoll) {
			break
		}
		account, err = s.client.CoreV1().ServiceAccounts(a.GetNamespace()).Get(ctx, name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			break
		}
		err = apierrors.NewNotFound(corev1.Resource("serviceaccount"), name)
	}
	if err != nil {
		return nil, admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), name, err))
	}
	return account, nil
}

func mirrored(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// mirrorRules: what a node runs by itself has no part in the API's secrets.
func mirrorRules(pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return errors.New("a mirror pod may not reference service accounts")
	}
	for range podrefs.Secrets(pod) {
		return errors.New("a mirror pod may not reference secrets")
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if source.ServiceAccountToken != nil {
				return errors.New("a mirror pod may not use ServiceAccountToken volume projections")
			}
		}
	}
	return nil
}

// automounts: the pod's word counts before its account's.
func automounts(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	for _, says := range []*bool{pod.Spec.AutomountServiceAccountToken, account.AutomountServiceAccountToken} {
		if says != nil {
			return *says
		}
	}
	return true
}

// mountToken mounts the token's volume into every container that has not
// something else in its place.
func mountToken(pod *corev1.Pod) {
	name, wanted := "", false
	taken := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		taken[v.Name] = true
		if name == "" && strings.HasPrefix(v.Name, tokenVolume) {
			name = v.Name
		}
	}
	have := name != ""
	for name == "" || !have && taken[name] {
		name = names.SimpleNameGenerator.GenerateName(tokenVolume)
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenPath})
			wanted = true
		}
	}
	if wanted && !have {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenSources()}})
	}
}

func tokenSources() *corev1.ProjectedVolumeSource {
	mode, seconds := corev1.ProjectedVolumeSourceDefaultMode, tokenSeconds
	return &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: corev1.ServiceAccountTokenKey, ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCA},
				Items:                []corev1.KeyToPath{{Key: corev1.ServiceAccountRootCAKey, Path: corev1.ServiceAccountRootCAKey}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path: corev1.ServiceAccountNamespaceKey, FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}
}

// mountable refuses Secrets that the account does not name. Of a pod that is
// there already only what can have been added is looked at.
func mountable(account *corev1.ServiceAccount, pod *corev1.Pod, whole bool) error {
	allowed := map[string]bool{}
	for _, s := range account.Secrets {
		allowed[s.Name] = true
	}
	refuse := func(kind, container, env, secret string) error {
		return fmt.Errorf("%s %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret", kind, container, env, secret, account.Name)
	}
	check := func(kind, container string, env []corev1.EnvVar) error {
		for _, e := range env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && !allowed[e.ValueFrom.SecretKeyRef.Name] {
				return refuse(kind, container, e.Name, e.ValueFrom.SecretKeyRef.Name)
			}
		}
		return nil
	}
	if !whole {
		for _, c := range pod.Spec.EphemeralContainers {
			if err := check("ephemeral container", c.Name, c.Env); err != nil {
				return err
			}
		}
		return nil
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil && !allowed[v.Secret.SecretName] {
			return fmt.Errorf("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", v.Secret.SecretName, account.Name)
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if err := check("init container", c.Name, c.Env); err != nil {
			return err
		}
	}
	for _, c := range pod.Spec.Containers {
		if err := check("container", c.Name, c.Env); err != nil {
			return err
		}
	}
	for i, ref := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, ref) {
			return fmt.Errorf(`imagePullSecrets[%d].name="%s" is not allowed because service account %s does not reference that imagePullSecret`, i, ref.Name, account.Name)
		}
	}
	return nil
}
