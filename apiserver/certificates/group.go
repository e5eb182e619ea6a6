// Package certificates is the API group certificates.k8s.io: requests for
// certificates, who approved them and what was issued, and bundles of
// certificates to trust. Signing is a controller's.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package certificates

import (
	"context"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/endpoints/request"

	"kontiki/apiserver/kind"
)

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:        certificatesv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: certificatesv1.AddToScheme,
		Kinds: map[string][]kind.Definition{"v1": {
			signingRequests(), trustBundles(), podRequests(),
		}},
	}
}

func signingRequests() kind.Definition {
	doc := certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()
	return &kind.Kind[*certificatesv1.CertificateSigningRequest]{
		Resource: "certificatesigningrequests", Singular: "certificatesigningrequest", ShortNames: []string{"csr"},
		Cluster:        true,
		New:            func() *certificatesv1.CertificateSigningRequest { return &certificatesv1.CertificateSigningRequest{} },
		NewList:        func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} },
		Name:           anyName,
		Default:        defaultRequest,
		Prepare:        prepareRequest,
		Validate:       validateRequest,
		ValidateUpdate: validateRequestUpdate,
		Status: &kind.Status[*certificatesv1.CertificateSigningRequest]{
			Prepare:  prepareRequestStatus,
			Validate: validateRequestStatus,
		},
		Fields: func(r *certificatesv1.CertificateSigningRequest) fields.Set {
			return fields.Set{"spec.signerName": r.Spec.SignerName}
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.AgeColumn,
			kind.Column("SignerName", doc["signerName"]),
			kind.Column("Requestor", doc["request"]),
			kind.Column("RequestedDuration", doc["expirationSeconds"]),
			kind.Column("Condition", certificatesv1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
		},
		Cells:  requestCells,
		Extend: extendRequests,
	}
}

// anyName: upstream does not care how requests are called.
func anyName(string, bool) []string { return nil }

func requestCells(r *certificatesv1.CertificateSigningRequest) []any {
	lifetime := "<none>"
	if s := r.Spec.ExpirationSeconds; s != nil {
		lifetime = duration.HumanDuration(time.Duration(*s) * time.Second)
	}
	return []any{r.Name, kind.Age(r.CreationTimestamp), r.Spec.SignerName, r.Spec.Username, lifetime, stateOf(r)}
}

func stateOf(r *certificatesv1.CertificateSigningRequest) string {
	state := "Pending"
	switch {
	case len(conditionsOf(r, certificatesv1.CertificateDenied)) > 0:
		state = "Denied"
	case len(conditionsOf(r, certificatesv1.CertificateApproved)) > 0:
		state = "Approved"
	}
	if len(conditionsOf(r, certificatesv1.CertificateFailed)) > 0 {
		state += ",Failed"
	}
	if len(r.Status.Certificate) > 0 {
		state += ",Issued"
	}
	return state
}

func conditionsOf(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
	var out []certificatesv1.CertificateSigningRequestCondition
	for _, c := range r.Status.Conditions {
		if c.Type == t {
			out = append(out, c)
		}
	}
	return out
}

func defaultRequest(r *certificatesv1.CertificateSigningRequest) {
	for i := range r.Status.Conditions {
		kind.SetDefault(&r.Status.Conditions[i].Status, corev1.ConditionTrue)
	}
}

// prepareRequest writes down who asks; nobody asks in another's name, and what was
// asked for does not change.
func prepareRequest(ctx context.Context, r, old *certificatesv1.CertificateSigningRequest) {
	if old != nil {
		r.Spec = old.Spec
		return
	}
	r.Spec.Username, r.Spec.UID, r.Spec.Groups, r.Spec.Extra = "", "", nil, nil
	if u, ok := request.UserFrom(ctx); ok {
		r.Spec.Username, r.Spec.UID, r.Spec.Groups = u.GetName(), u.GetUID(), u.GetGroups()
		for k, v := range u.GetExtra() {
			if r.Spec.Extra == nil {
				r.Spec.Extra = map[string]certificatesv1.ExtraValue{}
			}
			r.Spec.Extra[k] = v
		}
	}
}

// prepareRequestStatus is for signers, who issue and fail: approval stays as it is.
func prepareRequestStatus(r, old *certificatesv1.CertificateSigningRequest) {
	keepConditions(r, old, certificatesv1.CertificateApproved)
	keepConditions(r, old, certificatesv1.CertificateDenied)
	setTimes(r, old)
}

// keepConditions gives the conditions of type t that have not been added or
// removed their old contents.
func keepConditions(r, old *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) {
	before := conditionsOf(old, t)
	for i := range r.Status.Conditions {
		if r.Status.Conditions[i].Type == t && len(before) > 0 {
			r.Status.Conditions[i], before = before[0], before[1:]
		}
	}
}

// setTimes fills in when conditions were written and when they became so.
func setTimes(r, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now()
	for i := range r.Status.Conditions {
		c := &r.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, before := range conditionsOf(old, c.Type) {
			if before.Status == c.Status && !before.LastTransitionTime.IsZero() {
				c.LastTransitionTime = before.LastTransitionTime
				break
			}
		}
	}
}
