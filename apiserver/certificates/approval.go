package certificates

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"kontiki/apiserver/kind"
)

func extendRequests(in kind.Storages) (kind.Storages, error) {
	main := in["certificatesigningrequests"].(*kind.REST)
	in["certificatesigningrequests/approval"] = kind.WithUpdateStrategy(main, approvalStrategy{main.Store.UpdateStrategy})
	return in, nil
}

// approvalStrategy lets approvers approve and deny, and nothing else.
type approvalStrategy struct{ rest.RESTUpdateStrategy }

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (approvalStrategy) PrepareForUpdate(_ context.Context, o, p runtime.Object) {
	r, old := o.(*certificatesv1.CertificateSigningRequest), p.(*certificatesv1.CertificateSigningRequest)
	setTimes(r, old)
	conditions := r.Status.Conditions
	r.Spec, r.Status = old.Spec, old.Status
	r.Status.Conditions = conditions
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (approvalStrategy) ValidateUpdate(_ context.Context, o, p runtime.Object) field.ErrorList {
	r, old := o.(*certificatesv1.CertificateSigningRequest), p.(*certificatesv1.CertificateSigningRequest)
	errs := validation.ValidateObjectMetaAccessorUpdate(r, old, field.NewPath("metadata"))
	return append(errs, validateChange(r, old, mayApprove)...)
}

// WarningsOnUpdate implements rest.RESTUpdateStrategy.
func (approvalStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (approvalStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"certificates.k8s.io/v1": fieldpath.NewSet(
		fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "certificate"))}
}
