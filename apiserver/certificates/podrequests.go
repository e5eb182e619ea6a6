package certificates

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func podRequests() kind.Definition {
	doc := certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()
	return &kind.Kind[*certificatesv1.PodCertificateRequest]{
		Resource: "podcertificaterequests", Singular: "podcertificaterequest",
		ConditionalUpdate: true,
		New:               func() *certificatesv1.PodCertificateRequest { return &certificatesv1.PodCertificateRequest{} },
		NewList:           func() runtime.Object { return &certificatesv1.PodCertificateRequestList{} },
		Default: func(r *certificatesv1.PodCertificateRequest) {
			kind.SetDefaultPtr(&r.Spec.MaxExpirationSeconds, 24*60*60)
		},
		Validate: validatePodRequest,
		ValidateUpdate: func(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
			return validation.ValidateImmutableField(r.Spec, old.Spec, field.NewPath("spec"))
		},
		Status: &kind.Status[*certificatesv1.PodCertificateRequest]{Validate: validatePodRequestStatus},
		Fields: func(r *certificatesv1.PodCertificateRequest) fields.Set {
			return fields.Set{"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName)}
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("PodName", doc["podName"]),
			kind.Column("ServiceAccountName", doc["serviceAccountName"]),
			kind.Column("NodeName", doc["nodeName"]),
			kind.Column("SignerName", doc["signerName"]),
			kind.Column("State", "Is the request Pending, Issued, Denied, or Failed?"),
			kind.Column("UnverifiedUserAnnotations", doc["unverifiedUserAnnotations"]),
		},
		Cells: func(r *certificatesv1.PodCertificateRequest) []any {
			state := outcomeOf(r)
			if state == "" {
				state = "Pending"
			}
			return []any{r.Name, r.Spec.PodName, r.Spec.ServiceAccountName, string(r.Spec.NodeName), r.Spec.SignerName, state, labels.FormatLabels(r.Spec.UnverifiedUserAnnotations)}
		},
	}
}

// outcomeOf is how a request has ended, or empty.
func outcomeOf(r *certificatesv1.PodCertificateRequest) string {
	for _, c := range r.Status.Conditions {
		switch c.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
			return c.Type
		}
	}
	return ""
}

func validatePodRequest(r *certificatesv1.PodCertificateRequest) field.ErrorList {
	s, at := &r.Spec, field.NewPath("spec")
	errs := kind.SignerName(s.SignerName, at.Child("signerName"))
	for k := range s.UnverifiedUserAnnotations {
		errs = append(errs, utilvalidation.IsDomainPrefixedKey(at.Child("unverifiedUserAnnotations"), strings.ToLower(k))...)
	}
	uid := func(name, value string) {
		const longest = 128
		if value == "" {
			errs = append(errs, field.Invalid(at.Child(name), value, "must not be empty"))
		}
		if len(value) > longest {
			errs = append(errs, field.TooLong(at.Child(name), value, longest))
		}
	}
	errs = append(errs, kind.Invalid(at.Child("podName"), s.PodName, validation.NameIsDNSSubdomain(s.PodName, false))...)
	uid("podUID", string(s.PodUID))
	errs = append(errs, kind.Invalid(at.Child("serviceAccountName"), s.ServiceAccountName, validation.ValidateServiceAccountName(s.ServiceAccountName, false))...)
	uid("serviceAccountUID", string(s.ServiceAccountUID))
	errs = append(errs, kind.Invalid(at.Child("nodeName"), s.NodeName, validation.NameIsDNSSubdomain(string(s.NodeName), false))...)
	uid("nodeUID", string(s.NodeUID))
	if n := s.MaxExpirationSeconds; n == nil {
		return append(errs, field.Required(at.Child("maxExpirationSeconds"), "must be set"))
	} else if longest := kind.LongestPodCertificate(s.SignerName); *n < 3600 || *n > longest {
		errs = append(errs, field.Invalid(at.Child("maxExpirationSeconds"), n, fmt.Sprintf("must be in the range [%d, %d]", 3600, longest)))
	}
	if len(s.StubPKCS10Request) == 0 {
		return append(errs, field.Invalid(at, field.OmitValueType{}, "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"))
	}
	return append(errs, checkStub(s.StubPKCS10Request, at.Child("stubPKCS10Request"))...)
}

// checkStub wants a request, in DER, that shows a key of a known kind.
func checkStub(der []byte, at *field.Path) field.ErrorList {
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return field.ErrorList{field.Invalid(at, field.OmitValueType{}, "must be a valid PKCS#10 CSR")}
	}
	switch key := request.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() && key.Curve != elliptic.P521() {
			return field.ErrorList{field.Invalid(at, "curve "+key.Curve.Params().Name, "elliptic public keys must use curve P256, P384, or P521")}
		}
	case *rsa.PublicKey:
		if bits := key.Size() * 8; bits != 3072 && bits != 4096 {
			return field.ErrorList{field.Invalid(at, fmt.Sprintf("%d-bit modulus", bits), "RSA keys must have modulus size 3072 or 4096")}
		}
	default:
		return field.ErrorList{field.Invalid(at, field.OmitValueType{}, "unknown public key type; supported types are Ed25519, ECDSA, and RSA")}
	}
	if err := request.CheckSignature(); err != nil {
		return field.ErrorList{field.Invalid(at, field.OmitValueType{}, "invalid signature")}
	}
	return nil
}

// validatePodRequestStatus lets a request end once.
func validatePodRequestStatus(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
	at := field.NewPath("status")
	var errs field.ErrorList
	known := []string{certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed}
	for i, c := range r.Status.Conditions {
		to := at.Child("conditions").Index(i)
		if bad := kind.Supported(c.Type, to.Child("type"), known...); len(bad) > 0 {
			errs = append(errs, bad...)
			continue
		}
		if i > 0 {
			errs = append(errs, field.Invalid(to.Child("type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`))
		}
		errs = append(errs, kind.Supported(c.Status, to.Child("status"), metav1.ConditionTrue)...)
	}
	errs = append(errs, unversioned.ValidateConditions(r.Status.Conditions, at.Child("conditions"))...)
	if len(errs) > 0 || apiequality.Semantic.DeepEqual(r.Status, old.Status) {
		return errs
	}
	switch {
	case outcomeOf(old) != "":
		return field.ErrorList{field.Invalid(at, field.OmitValueType{}, "immutable after PodCertificateRequest is issued, denied, or failed")}
	case outcomeOf(r) == "":
		return field.ErrorList{field.Invalid(at, field.OmitValueType{}, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`)}
	case outcomeOf(r) == certificatesv1.PodCertificateRequestConditionTypeIssued:
		return validateIssued(r, time.Now(), at)
	}
	if !apiequality.Semantic.DeepEqual(r.Status, certificatesv1.PodCertificateRequestStatus{Conditions: r.Status.Conditions}) {
		return field.ErrorList{field.Invalid(at, field.OmitValueType{}, "non-condition status fields must be empty when denying or failing the PodCertificateRequest")}
	}
	return nil
}
