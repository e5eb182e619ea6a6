package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// projection checks the sources of one projected volume, which share its paths.
type projection struct {
	at    *field.Path // of the volume
	paths sets.Set[string]
	errs  field.ErrorList
}

func validateProjected(s *corev1.ProjectedVolumeSource, at *field.Path) field.ErrorList {
	p := &projection{at: at, paths: sets.New[string]()}
	p.add(validateMode(s.DefaultMode, at.Child("defaultMode")))
	p.add(validateUser(s.DefaultUser, at.Child("defaultUser")))
	for i := range s.Sources {
		p.source(&s.Sources[i], at.Child("sources").Index(i))
	}
	return p.errs
}

func (p *projection) add(errs field.ErrorList) { p.errs = append(p.errs, errs...) }

// take refuses a path that another source has taken; of says whose it is.
func (p *projection) take(path, of string) {
	if path != "" && p.paths.Has(path) {
		p.add(field.ErrorList{field.Invalid(p.at, of, "conflicting duplicate paths")})
	}
	p.paths.Insert(path)
}

func (p *projection) source(s *corev1.VolumeProjection, at *field.Path) {
	n := 0
	keys := func(name string, items []corev1.KeyToPath, at *field.Path) {
		n++
		if name == "" {
			p.add(field.ErrorList{field.Required(at.Child("name"), "")})
		}
		for i := range items {
			p.add(rebase(validateKeysToPaths(items[i:i+1], at.Child("items")), at.Child("items").Index(0), at.Child("items").Index(i)))
			p.take(items[i].Path, name)
		}
	}
	if s.Secret != nil {
		keys(s.Secret.Name, s.Secret.Items, at.Child("secret"))
	}
	if s.ConfigMap != nil {
		keys(s.ConfigMap.Name, s.ConfigMap.Items, at.Child("configMap"))
	}
	if s.DownwardAPI != nil {
		n++
		for i, item := range s.DownwardAPI.Items {
			p.add(validateDownwardItems(s.DownwardAPI.Items[i:i+1], at.Child("downwardAPI")))
			p.take(item.Path, item.Path)
		}
	}
	if s.ServiceAccountToken != nil {
		n++
		p.token(s.ServiceAccountToken, at.Child("serviceAccountToken"))
	}
	if s.ClusterTrustBundle != nil {
		n++
		p.bundle(s.ClusterTrustBundle, at.Child("clusterTrustBundle"))
	}
	if s.PodCertificate != nil {
		n++
		p.certificate(s.PodCertificate, at.Child("podCertificate"))
	}
	if n > 1 {
		p.add(field.ErrorList{field.Forbidden(at, "may not specify more than 1 volume type per source")})
	}
}

// rebase moves errors from one path to another.
func rebase(errs field.ErrorList, from, to *field.Path) field.ErrorList {
	for _, e := range errs {
		e.Field = to.String() + strings.TrimPrefix(e.Field, from.String())
	}
	return errs
}

func (p *projection) token(t *corev1.ServiceAccountTokenProjection, at *field.Path) {
	lifetime := at.Child("expirationSeconds")
	switch s := t.ExpirationSeconds; {
	case s == nil:
		p.add(field.ErrorList{field.Required(lifetime, "")})
	case *s < 10*60:
		p.add(field.ErrorList{field.Invalid(lifetime, *s, "may not specify a duration less than 10 minutes")})
	case *s > 1<<32:
		p.add(field.ErrorList{field.Invalid(lifetime, *s, "may not specify a duration larger than 2^32 seconds")})
	}
	p.add(validatePathInVolume(t.Path, p.at.Child("path"))) // upstream's path leaves the source out
	p.add(validateUser(t.User, at.Child("user")))
}

func (p *projection) bundle(b *corev1.ClusterTrustBundleProjection, at *field.Path) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		p.add(field.ErrorList{field.Invalid(at, b, "only one of name and signerName may be used")})
	case b.Name != nil:
		if *b.Name == "" {
			p.add(field.ErrorList{field.Required(at.Child("name"), "must be a valid object name")})
		}
		for _, m := range kind.TrustBundleName(*b.Name) {
			p.add(field.ErrorList{field.Invalid(at.Child("name"), *b.Name, fmt.Sprintf("not a valid clustertrustbundlename: %v", m))})
		}
		if b.LabelSelector != nil {
			p.add(field.ErrorList{field.Invalid(at.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified")})
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			p.add(field.ErrorList{field.Required(at.Child("signerName"), "must be a valid signer name")})
		}
		p.add(kind.SignerName(*b.SignerName, at.Child("signerName")))
		p.add(unversioned.ValidateLabelSelector(b.LabelSelector, unversioned.LabelSelectorValidationOptions{}, at.Child("labelSelector")))
	default:
		p.add(field.ErrorList{field.Required(at, "either name or signerName must be specified")})
	}
	p.add(validatePathInVolume(b.Path, at.Child("path")))
	p.add(validateUser(b.User, at.Child("user")))
	p.take(b.Path, b.Path)
}

var keyTypes = []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"}

func (p *projection) certificate(c *corev1.PodCertificateProjection, at *field.Path) {
	p.add(kind.SignerName(c.SignerName, at.Child("signerName")))
	p.add(validateUser(c.User, at.Child("user")))
	p.add(supported(c.KeyType, at.Child("keyType"), keyTypes...))
	if s := c.MaxExpirationSeconds; s != nil {
		longest := kind.LongestPodCertificate(c.SignerName)
		if *s < 3600 {
			p.add(field.ErrorList{field.Invalid(at.Child("maxExpirationSeconds"), *s, "if provided, maxExpirationSeconds must be >= 3600")})
		}
		if *s > longest {
			p.add(field.ErrorList{field.Invalid(at.Child("maxExpirationSeconds"), *s, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", longest))})
		}
	}
	n := 0
	for _, f := range []struct{ name, path string }{
		{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
	} {
		if f.path != "" {
			n++
			p.add(validatePathInVolume(f.path, at.Child(f.name)))
			p.take(f.path, f.path)
		}
	}
	if n == 0 {
		p.add(field.ErrorList{field.Required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")})
	}
}
