package core

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePodSecurity(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	c := s.SecurityContext
	if c == nil {
		return nil
	}
	var errs field.ErrorList
	if c.FSGroup != nil {
		errs = append(errs, invalidFor(at.Child("fsGroup"), *c.FSGroup, utilvalidation.IsValidGroupID(*c.FSGroup))...)
	}
	errs = append(errs, validateIDs(c.RunAsUser, c.RunAsGroup, at)...)
	for i, gid := range c.SupplementalGroups {
		errs = append(errs, invalidFor(at.Child("supplementalGroups").Index(i), gid, utilvalidation.IsValidGroupID(gid))...)
	}
	errs = append(errs, validateSysctls(s, at.Child("sysctls"))...)
	if p := c.FSGroupChangePolicy; p != nil {
		errs = append(errs, supported(*p, at.Child("fsGroupChangePolicy"), corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	}
	errs = append(errs, validateSeccomp(c.SeccompProfile, at.Child("seccompProfile"))...)
	errs = append(errs, validateAppArmor(c.AppArmorProfile, at.Child("appArmorProfile"))...)
	if p := c.SupplementalGroupsPolicy; p != nil {
		errs = append(errs, supported(*p, at.Child("supplementalGroupsPolicy"), corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	}
	if p := c.SELinuxChangePolicy; p != nil {
		errs = append(errs, supported(*p, at.Child("seLinuxChangePolicy"), corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)...)
	}
	return errs
}

// sysctlName is a name of segments between dots or slashes (sysctl(8)).
var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func validateSysctls(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	const longest = 253
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, ctl := range s.SecurityContext.Sysctls {
		at := path.Index(i).Child("name")
		switch {
		case ctl.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(ctl.Name) > longest || !sysctlName.MatchString(ctl.Name):
			errs = append(errs, field.Invalid(at, ctl.Name, fmt.Sprintf("must have at most %d characters and match regex %s", longest, sysctlName)))
		case seen.Has(ctl.Name):
			errs = append(errs, field.Duplicate(at, ctl.Name))
		}
		seen.Insert(ctl.Name)
		// A namespace that is the host's has the host's settings.
		switch name := strings.ReplaceAll(ctl.Name, "/", "."); {
		case s.HostNetwork && strings.HasPrefix(name, "net."):
			errs = append(errs, field.Invalid(at, ctl.Name, "may not be specified when 'hostNetwork' is true"))
		case s.HostIPC && (name == "kernel.sem" || strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || strings.HasPrefix(name, "fs.mqueue.")):
			errs = append(errs, field.Invalid(at, ctl.Name, "may not be specified when 'hostIPC' is true"))
		}
	}
	return errs
}

func validateIDs(uid, gid *int64, at *field.Path) field.ErrorList {
	errs := validateUser(uid, at.Child("runAsUser"))
	if gid != nil {
		errs = append(errs, invalidFor(at.Child("runAsGroup"), *gid, utilvalidation.IsValidGroupID(*gid))...)
	}
	return errs
}

func validateUser(uid *int64, at *field.Path) field.ErrorList {
	if uid == nil {
		return nil
	}
	return invalidFor(at, *uid, utilvalidation.IsValidUserID(*uid))
}

func validateSeccomp(p *corev1.SeccompProfile, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	if p.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "type is required when seccompProfile is set"))
	} else {
		errs = append(errs, supported(p.Type, at.Child("type"), corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)...)
	}
	switch {
	case p.Type != corev1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile != nil {
			errs = append(errs, field.Invalid(at.Child("localhostProfile"), p, "can only be set when seccomp type is Localhost"))
		}
	case p.LocalhostProfile == nil:
		errs = append(errs, field.Required(at.Child("localhostProfile"), "must be set when seccomp type is Localhost"))
	default:
		errs = append(errs, validateLocalPath(*p.LocalhostProfile, at.Child("localhostProfile"))...)
	}
	return errs
}

func validateAppArmor(p *corev1.AppArmorProfile, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	profile := at.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		const longest = 4095 // of a path, without the final zero
		missing := field.Required(profile, "must be set when AppArmor type is Localhost")
		if p.LocalhostProfile == nil {
			return field.ErrorList{missing}
		}
		var errs field.ErrorList
		switch name := *p.LocalhostProfile; {
		case strings.TrimSpace(name) != name:
			errs = append(errs, field.Invalid(profile, name, "must not be padded with whitespace"))
		case name == "":
			errs = append(errs, missing)
		}
		if len(*p.LocalhostProfile) > longest {
			errs = append(errs, field.TooLong(profile, "" /*unused*/, longest))
		}
		return errs
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			return field.ErrorList{field.Invalid(profile, p.LocalhostProfile, "can only be set when AppArmor type is Localhost")}
		}
		return nil
	case "":
		return field.ErrorList{field.Required(at.Child("type"), "type is required when appArmorProfile is set")}
	}
	return field.ErrorList{field.NotSupported(at.Child("type"), p.Type,
		[]corev1.AppArmorProfileType{corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined})}
}

func validateSecurityContext(c *corev1.SecurityContext, hostUsers bool, at *field.Path) field.ErrorList {
	if c == nil {
		return nil
	}
	errs := validateIDs(c.RunAsUser, c.RunAsGroup, at)
	if c.ProcMount != nil {
		errs = append(errs, supported(*c.ProcMount, at.Child("procMount"), corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
		if hostUsers && *c.ProcMount == corev1.UnmaskedProcMount {
			errs = append(errs, field.Invalid(at.Child("procMount"), c.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	errs = append(errs, validateSeccomp(c.SeccompProfile, at.Child("seccompProfile"))...)
	if c.AllowPrivilegeEscalation != nil && !*c.AllowPrivilegeEscalation {
		if c.Privileged != nil && *c.Privileged {
			errs = append(errs, field.Invalid(at, c, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if c.Capabilities != nil {
			for _, cap := range c.Capabilities.Add {
				if cap == "CAP_SYS_ADMIN" {
					errs = append(errs, field.Invalid(at, c, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	return append(errs, validateAppArmor(c.AppArmorProfile, at.Child("appArmorProfile"))...)
}

// validatePodOS refuses what the pod's operating system does not have.
func validatePodOS(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	at := path.Child("os")
	switch {
	case s.OS == nil:
		return nil
	case s.OS.Name == "":
		return field.ErrorList{field.Required(at.Child("name"), "")}
	case s.OS.Name == corev1.Windows:
		return nil // no node of this project runs it
	case s.OS.Name != corev1.Linux:
		return field.ErrorList{field.NotSupported(at, s.OS.Name, []corev1.OSName{corev1.Linux, corev1.Windows})}
	}
	const foreign = "windows options cannot be set for a linux pod"
	var errs field.ErrorList
	if c := s.SecurityContext; c != nil && c.WindowsOptions != nil {
		errs = append(errs, field.Forbidden(path.Child("securityContext", "windowsOptions"), foreign))
	}
	eachContainer(s, path, func(c *corev1.Container, at *field.Path) {
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			errs = append(errs, field.Forbidden(at.Child("securityContext", "windowsOptions"), foreign))
		}
	})
	return errs
}
