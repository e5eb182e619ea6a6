package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// maxBundle bounds a bundle of certificates, in bytes.
const maxBundle = 1 << 20

func trustBundles() kind.Definition {
	return &kind.Kind[*certificatesv1.ClusterTrustBundle]{
		Resource: "clustertrustbundles", Singular: "clustertrustbundle",
		Cluster: true,
		New:     func() *certificatesv1.ClusterTrustBundle { return &certificatesv1.ClusterTrustBundle{} },
		NewList: func() runtime.Object { return &certificatesv1.ClusterTrustBundleList{} },
		Name:    anyName, // it depends on the signer, see validateBundle
		Validate: func(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
			return append(validateBundle(b), checkBundle(b.Spec.TrustBundle, field.NewPath("spec", "trustBundle"))...)
		},
		ValidateUpdate: func(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
			errs := validateBundle(b)
			if b.Spec.TrustBundle != old.Spec.TrustBundle { // what a stricter parser refuses may stay
				errs = append(errs, checkBundle(b.Spec.TrustBundle, field.NewPath("spec", "trustBundle"))...)
			}
			return append(errs, validation.ValidateImmutableField(b.Spec.SignerName, old.Spec.SignerName, field.NewPath("spec", "signerName"))...)
		},
		Fields: func(b *certificatesv1.ClusterTrustBundle) fields.Set {
			return fields.Set{"spec.signerName": b.Spec.SignerName}
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("SignerName", certificatesv1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"]),
		},
		Cells: func(b *certificatesv1.ClusterTrustBundle) []any {
			signer := b.Spec.SignerName
			if signer == "" {
				signer = "<none>"
			}
			return []any{b.Name, signer}
		},
	}
}

func validateBundle(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	errs := kind.Invalid(field.NewPath("metadata", "name"), b.Name, kind.TrustBundleNameOf(b.Spec.SignerName, b.Name))
	if b.Spec.SignerName != "" {
		errs = append(errs, kind.SignerName(b.Spec.SignerName, field.NewPath("spec", "signerName"))...)
	}
	return errs
}

// checkBundle wants certificates of authorities in PEM, each once.
func checkBundle(text string, at *field.Path) field.ErrorList {
	if len(text) > maxBundle {
		return field.ErrorList{field.TooLong(at, "" /*unused*/, maxBundle)}
	}
	var errs field.ErrorList
	wrong := func(format string, args ...any) {
		errs = append(errs, field.Invalid(at, "<value omitted>", fmt.Sprintf(format, args...)))
	}
	seen := map[string][]int{}
	var order []string
	rest := []byte(text)
	for i := 0; ; i++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case block.Type != "CERTIFICATE":
			wrong("entry %d has bad block type: %v", i, block.Type)
		case len(block.Headers) != 0:
			wrong("entry %d has PEM block headers", i)
		case err != nil:
			wrong("entry %d does not parse as X.509", i)
		case !cert.IsCA:
			wrong("entry %d does not have the CA bit set", i)
		case !cert.BasicConstraintsValid:
			wrong("entry %d has invalid basic constraints", i)
		default:
			key := string(block.Bytes)
			if len(seen[key]) == 0 {
				order = append(order, key)
			}
			seen[key] = append(seen[key], i)
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if len(seen) == 0 {
		wrong("at least one trust anchor must be provided")
	}
	for _, key := range order {
		if len(seen[key]) > 1 {
			wrong("duplicate trust anchor (indices %v)", seen[key])
		}
	}
	return errs
}
