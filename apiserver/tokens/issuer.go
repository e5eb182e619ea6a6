package tokens

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/client-go/kubernetes"
)

// URL is the issuer of a cluster's tokens, and what they are for when nothing
// else is asked.
const URL = "https://kubernetes.default.svc.cluster.local"

const (
	// kubeletSeconds is the life that the volume kube-api-access-… asks for. Programs
	// that read such a token only once would be locked out an hour later: as upstream
	// the token lives extended, is replaced in its file as if it did not, and uses after
	// its time are noted in the audit log.
	kubeletSeconds = 60*60 + 7
	extended       = 365 * 24 * time.Hour
)

func credential(id string) string { return "JTI=" + id }

// leeway is by how much clocks may differ.
const leeway = time.Minute

// Issuer makes tokens and tells whose they are.
type Issuer struct {
	signer *signer
	client kubernetes.Interface
	uses   *uses
	now    func() time.Time
}

// New returns an issuer that signs with key, looks up accounts with client, and goes by
// the clock now.
func New(key crypto.Signer, client kubernetes.Interface, now func() time.Time) (*Issuer, error) {
	s, err := newSigner(key)
	if err != nil {
		return nil, err
	}
	write := func(ctx context.Context, namespace, name string, patch []byte) error {
		_, err := client.CoreV1().Secrets(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	}
	return &Issuer{s, client, newUses(write), now}, nil
}

// Run notes that tokens in Secrets were used, until ctx ends.
func (i *Issuer) Run(ctx context.Context) { i.uses.run(ctx) }

// AuthenticateToken implements authenticator.Token. Tokens of others are none of
// its business.
func (i *Issuer) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if issuerOf(token) != URL {
		return nil, false, nil
	}
	c := &claims{}
	if err := i.signer.verify(token, c); err != nil {
		return nil, false, err
	}
	now := i.now()
	if c.Issuer != URL {
		return nil, false, errForm
	}
	if now.After(time.Unix(c.Expires, 0).Add(leeway)) {
		return nil, false, errors.New("service account token has expired")
	}
	if now.Before(time.Unix(c.NotBefore, 0).Add(-leeway)) {
		return nil, false, errors.New("service account token is not valid yet")
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		wanted = authenticator.Audiences{URL}
	}
	audiences := wanted.Intersect(c.Audiences)
	if len(audiences) == 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", c.Audiences, []string(wanted))
	}
	info, err := i.account(ctx, c, token)
	if err != nil {
		return nil, false, err
	}
	if after := c.Bound.WarnAfter; after != 0 && now.After(time.Unix(after, 0)) {
		audit.AddAuditAnnotation(ctx, "authentication.k8s.io/stale-token",
			fmt.Sprintf("subject: %s, seconds after warning threshold: %.0f", c.Subject, now.Sub(time.Unix(after, 0)).Seconds()))
	}
	return &authenticator.Response{User: info.UserInfo(), Audiences: audiences}, true, nil
}

// account looks for all that the token is bound to.
func (i *Issuer) account(ctx context.Context, c *claims, token string) (*serviceaccount.ServiceAccountInfo, error) {
	b := &c.Bound
	core := i.client.CoreV1()
	sa, err := latest(ctx, b.ServiceAccount.Name, core.ServiceAccounts(b.Namespace).Get)
	if err != nil {
		return nil, err
	}
	if err := same("service account", sa, b.ServiceAccount); err != nil {
		return nil, err
	}
	info := &serviceaccount.ServiceAccountInfo{
		Namespace: b.Namespace, Name: b.ServiceAccount.Name, UID: b.ServiceAccount.UID, CredentialID: credential(c.ID),
	}
	if b.Secret != nil {
		secret, err := latest(ctx, b.Secret.Name, core.Secrets(b.Namespace).Get)
		if err == nil {
			err = same("secret", secret, *b.Secret)
		}
		if err == nil {
			err = i.stored(ctx, secret, c, token)
		}
		if err != nil {
			return nil, err
		}
	}
	if b.Pod != nil {
		pod, err := latest(ctx, b.Pod.Name, core.Pods(b.Namespace).Get)
		if err == nil {
			err = same("pod", pod, *b.Pod)
		}
		if err != nil {
			return nil, err
		}
		info.PodName, info.PodUID = b.Pod.Name, b.Pod.UID
	}
	if b.Node != nil {
		if b.Pod == nil { // of a pod's token the node is only told
			node, err := latest(ctx, b.Node.Name, core.Nodes().Get)
			if err == nil {
				err = same("node", node, *b.Node)
			}
			if err != nil {
				return nil, err
			}
		}
		info.NodeName, info.NodeUID = b.Node.Name, b.Node.UID
	}
	return info, nil
}

// latest reads from this node's replica, and only if that does not know the
// object, which may be very new, asks for the latest state.
func latest[T any](ctx context.Context, name string, get func(context.Context, string, metav1.GetOptions) (T, error)) (T, error) {
	obj, err := get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		return get(ctx, name, metav1.GetOptions{})
	}
	return obj, err
}

// same refuses an object of the same name that came later, and one that has been
// deleted for longer than clients need to notice.
func same(what string, obj metav1.Object, want ref) error {
	if string(obj.GetUID()) != want.UID {
		return fmt.Errorf("%s UID (%s) does not match claim (%s)", what, obj.GetUID(), want.UID)
	}
	if d := obj.GetDeletionTimestamp(); d != nil && time.Since(d.Time) > leeway {
		return fmt.Errorf("%s %s has been deleted", what, obj.GetName())
	}
	return nil
}

// REST serves serviceaccounts/token.
func (i *Issuer) REST() rest.Storage { return &tokenREST{i} }

type tokenREST struct{ issuer *Issuer }

var (
	_ rest.NamedCreater             = &tokenREST{}
	_ rest.GroupVersionKindProvider = &tokenREST{}
)

// New implements rest.Storage.
func (*tokenREST) New() runtime.Object { return &authenticationv1.TokenRequest{} }

// Destroy implements rest.Storage.
func (*tokenREST) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (*tokenREST) NamespaceScoped() bool { return true }

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (*tokenREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

// Create implements rest.NamedCreater.
func (r *tokenREST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	req, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest: %#v", obj))
	}
	namespace := request.NamespaceValue(ctx)
	var read metav1.GetOptions
	if r.issuer.hasPod(ctx, namespace, req.Spec.BoundObjectRef) {
		read.ResourceVersion = "0"
	}
	sa, err := r.issuer.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, read)
	if err != nil {
		return nil, err
	}
	if err := complete(req, sa); err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	b := bound{Namespace: namespace, ServiceAccount: ref{sa.Name, string(sa.UID)}}
	if err := r.issuer.bind(ctx, &b, req.Spec.BoundObjectRef, read); err != nil {
		return nil, err
	}
	now := r.issuer.now()
	expires := now.Add(time.Duration(*req.Spec.ExpirationSeconds) * time.Second)
	ends := expires
	if b.Pod != nil && *req.Spec.ExpirationSeconds == kubeletSeconds && slices.Equal(req.Spec.Audiences, []string{URL}) {
		ends, b.WarnAfter = now.Add(extended), expires.Unix()
	}
	out := req.DeepCopy()
	out.Status = authenticationv1.TokenRequestStatus{ExpirationTimestamp: metav1.NewTime(expires)}
	if dryrun.IsDryRun(options.DryRun) {
		return out, nil
	}
	id := string(uuid.NewUUID())
	out.Status.Token, err = r.issuer.signer.sign(&claims{
		Audiences: req.Spec.Audiences, Expires: ends.Unix(), IssuedAt: now.Unix(), NotBefore: now.Unix(),
		Issuer: URL, ID: id, Bound: b, Subject: serviceaccount.MakeUsername(namespace, name),
	})
	if err != nil {
		return nil, fmt.Errorf("failed to generate token: %w", err)
	}
	audit.AddAuditAnnotation(ctx, serviceaccount.IssuedCredentialIDAuditAnnotationKey, credential(id))
	return out, nil
}

// complete fills in defaults and refuses what cannot be.
func complete(req *authenticationv1.TokenRequest, sa *corev1.ServiceAccount) error {
	if req.Name == "" {
		req.Name = sa.Name
	}
	if req.Namespace == "" {
		req.Namespace = sa.Namespace
	}
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = []string{URL}
	}
	if req.Spec.ExpirationSeconds == nil {
		hour := int64(60 * 60)
		req.Spec.ExpirationSeconds = &hour
	}
	var errs field.ErrorList
	if req.Name != sa.Name {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), req.Name, "must match the service account name"))
	}
	at := field.NewPath("spec", "expirationSeconds")
	if *req.Spec.ExpirationSeconds < 10*60 {
		errs = append(errs, field.Invalid(at, *req.Spec.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
	}
	if *req.Spec.ExpirationSeconds > 1<<32 {
		errs = append(errs, field.Invalid(at, *req.Spec.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if slices.Contains(req.Spec.Audiences, "") {
		errs = append(errs, field.Invalid(field.NewPath("spec", "audiences"), req.Spec.Audiences, "must not be empty"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), "", errs)
	}
	return nil
}

// hasPod tells whether this node's replica has the very pod that a token is asked for. Then it
// has the pod's account as well, as it was when the pod was made, or later, and nobody else
// has to be asked: a node that starts again without a quorum starts its pods, and what
// they are bound to is looked at whenever the token is used.
func (i *Issuer) hasPod(ctx context.Context, namespace string, to *authenticationv1.BoundObjectReference) bool {
	if to == nil || to.Kind != "Pod" || to.APIVersion != "v1" || to.UID == "" {
		return false
	}
	pod, err := i.client.CoreV1().Pods(namespace).Get(ctx, to.Name, metav1.GetOptions{ResourceVersion: "0"})
	return err == nil && pod.UID == to.UID
}

// bind ties claims to the object that a request names.
func (i *Issuer) bind(ctx context.Context, b *bound, to *authenticationv1.BoundObjectReference, read metav1.GetOptions) error {
	if to == nil {
		return nil
	}
	check := func(m *metav1.ObjectMeta) error {
		if to.UID != "" && to.UID != m.UID {
			return apierrors.NewConflict(schema.GroupResource{Resource: to.Kind}, to.Name, fmt.Errorf(
				"the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", to.UID))
		}
		return nil
	}
	core := i.client.CoreV1()
	switch {
	case to.Kind == "Pod" && to.APIVersion == "v1":
		pod, err := core.Pods(b.Namespace).Get(ctx, to.Name, read)
		if err != nil {
			return err
		}
		if pod.Spec.ServiceAccountName != b.ServiceAccount.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", b.ServiceAccount.Name))
		}
		b.Pod = &ref{pod.Name, string(pod.UID)}
		if pod.Spec.NodeName != "" {
			b.Node = &ref{Name: pod.Spec.NodeName, UID: string(i.nodeUID(ctx, pod.Spec.NodeName))}
		}
		return check(&pod.ObjectMeta)
	case to.Kind == "Secret" && to.APIVersion == "v1":
		secret, err := core.Secrets(b.Namespace).Get(ctx, to.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		b.Secret = &ref{secret.Name, string(secret.UID)}
		return check(&secret.ObjectMeta)
	case to.Kind == "Node" && to.APIVersion == "v1":
		node, err := core.Nodes().Get(ctx, to.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		b.Node = &ref{node.Name, string(node.UID)}
		return check(&node.ObjectMeta)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", schema.FromAPIVersionAndKind(to.APIVersion, to.Kind)))
}

// nodeUID is told beside a pod's node where it is known.
func (i *Issuer) nodeUID(ctx context.Context, name string) types.UID {
	node, err := latest(ctx, name, i.client.CoreV1().Nodes().Get)
	if err != nil {
		return ""
	}
	return node.UID
}

// Discovery serves what relying parties need to check tokens themselves
// (OpenID Connect Discovery 1.0), by path.
func (i *Issuer) Discovery() (map[string]http.Handler, error) {
	const keysPath = "/openid/v1/jwks"
	keys, err := i.signer.keys()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"issuer":                                URL,
		"jwks_uri":                              URL + keysPath,
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
	})
	if err != nil {
		return nil, err
	}
	serve := func(kind string, body []byte) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Cache-Control", "public, max-age=3600")
			_, _ = w.Write(body) // the client has gone, or all is well
		})
	}
	return map[string]http.Handler{
		"/.well-known/openid-configuration": serve("application/json", config),
		keysPath:                            serve("application/jwk-set+json", keys),
	}, nil
}
