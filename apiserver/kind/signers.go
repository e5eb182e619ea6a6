package kind

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// SignerName checks a name of the form domain/path, as example.com/signer.
func SignerName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	domain, path, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(path, "/") {
		return field.ErrorList{field.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	var errs field.ErrorList
	if len(domain) > utilvalidation.DNS1123SubdomainMaxLength {
		errs = append(errs, field.TooLong(at, "" /*unused*/, utilvalidation.DNS1123SubdomainMaxLength))
	}
	labels := strings.Split(domain, ".")
	errs = append(errs, firstWrong(labels, domain, utilvalidation.IsDNS1123Label, at)...)
	if len(labels) < 2 {
		errs = append(errs, field.Invalid(at, domain, "should be a domain with at least two segments separated by dots"))
	}
	errs = append(errs, firstWrong(strings.Split(path, "."), path, utilvalidation.IsDNS1123Subdomain, at)...)
	const longest = 2*utilvalidation.DNS1123SubdomainMaxLength + utilvalidation.DNS1123LabelMaxLength + 2
	if len(name) > longest {
		errs = append(errs, field.TooLong(at, "" /*unused*/, longest))
	}
	return errs
}

func firstWrong(labels []string, of string, rule func(string) []string, at *field.Path) field.ErrorList {
	for _, label := range labels {
		if messages := rule(label); len(messages) > 0 {
			var errs field.ErrorList
			for _, m := range messages {
				errs = append(errs, field.Invalid(at, of, fmt.Sprintf("validating label %q: %s", label, m)))
			}
			return errs
		}
	}
	return nil
}

// TrustBundleName checks the name of a ClusterTrustBundle that is referred to: of a
// signer's, the signer's name precedes the last colon.
func TrustBundleName(name string) []string {
	signer := ""
	if i := strings.LastIndex(name, ":"); i >= 0 {
		signer = strings.ReplaceAll(name[:i], ":", "/")
	}
	return TrustBundleNameOf(signer, name)
}

// TrustBundleNameOf checks the name of a bundle of signer, or of none.
func TrustBundleNameOf(signer, name string) []string {
	if signer == "" {
		if strings.Contains(name, ":") {
			return []string{`ClusterTrustBundle without signer name must not have ":" in its name`}
		}
		return validation.NameIsDNSSubdomain(name, false)
	}
	prefix := strings.ReplaceAll(signer, "/", ":") + ":"
	if !strings.HasPrefix(name, prefix) {
		return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, prefix)}
	}
	return validation.NameIsDNSSubdomain(strings.TrimPrefix(name, prefix), false)
}

// LongestPodCertificate is how many seconds a pod's certificate of the signer may last.
func LongestPodCertificate(signer string) int32 {
	domain, _, _ := strings.Cut(signer, "/")
	if domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		return 24 * 60 * 60
	}
	return 91 * 24 * 60 * 60
}
