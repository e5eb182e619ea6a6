package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/shim"
)

// profileError is a seccomp profile that cannot be had from this node.
type profileError struct{ error }

func (e profileError) Unwrap() error { return e.error }

// secure applies the security contexts. Profiles of type Localhost lie below profiles.
func secure(spec *shim.ContainerSpec, pod *corev1.Pod, sc *corev1.SecurityContext, profiles string) error {
	spec.Capabilities = shim.DefaultCapabilities()
	spec.MaskedPaths, spec.ReadonlyPaths = shim.DefaultMaskedPaths(), shim.DefaultReadonlyPaths()
	var profile *corev1.SeccompProfile
	if psc := pod.Spec.SecurityContext; psc != nil {
		profile = psc.SeccompProfile
	}
	if sc != nil && sc.SeccompProfile != nil {
		profile = sc.SeccompProfile
	}
	if sc != nil && sc.Privileged != nil && *sc.Privileged {
		spec.Privileged, spec.Capabilities, spec.MaskedPaths, spec.ReadonlyPaths = true, slices.Clone(grantable()), nil, nil
		spec.ReadonlyRootfs = sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem
		return nil // no profile, whatever is asked for
	}
	if err := seccomp(spec, profile, profiles); err != nil {
		return err
	}
	if sc == nil {
		return nil
	}
	spec.ReadonlyRootfs = sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem
	spec.NoNewPrivileges = sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation
	if sc.Capabilities != nil {
		spec.Capabilities = capabilities(spec.Capabilities, sc.Capabilities)
	}
	// In the host's user namespace root could write /proc/sys/kernel/core_pattern, and be the host's root.
	if sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount {
		return errors.New("procMount Unmasked needs a user namespace, and the runtime does not support user namespaces")
	}
	return nil
}

// UserNamespaces says, in upstream's words, that a pod wants a user namespace of its own, which none gets here.
func UserNamespaces(pod *corev1.Pod) error {
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
		return errors.New("can't set `spec.hostUsers: false`, runtime does not support user namespaces")
	}
	return nil
}

// maxProfile bounds a profile's file.
const maxProfile = 1 << 20

// seccomp chooses the profile; what says nothing gets the runtime's.
func seccomp(spec *shim.ContainerSpec, p *corev1.SeccompProfile, profiles string) error {
	switch {
	case p == nil || p.Type == corev1.SeccompProfileTypeRuntimeDefault:
		spec.Seccomp = shim.SeccompRuntimeDefault
	case p.Type == corev1.SeccompProfileTypeUnconfined:
		spec.Seccomp = shim.SeccompUnconfined
	case p.Type == corev1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile == nil || !filepath.IsLocal(*p.LocalhostProfile) {
			return errors.New("localhostProfile must be set if seccompProfile type is Localhost.") //nolint:revive,staticcheck // upstream's words
		}
		path := filepath.Join(profiles, *p.LocalhostProfile)
		fi, err := os.Stat(path)
		if err == nil && fi.Size() > maxProfile {
			err = fmt.Errorf("it is larger than %d bytes", maxProfile)
		}
		var text []byte
		if err == nil {
			text, err = os.ReadFile(path)
		}
		if err == nil && !json.Valid(text) {
			err = errors.New("it is not JSON")
		}
		if err != nil {
			return profileError{fmt.Errorf("cannot load seccomp profile %q: %w", path, err)}
		}
		spec.Seccomp, spec.SeccompProfile = shim.SeccompLocalhost, text
	default:
		return fmt.Errorf("seccompProfile type %q is not supported", p.Type)
	}
	return nil
}

// capabilities adds, then drops; ALL means all.
func capabilities(base []string, c *corev1.Capabilities) []string {
	set := map[string]bool{}
	for _, b := range base {
		set[b] = true
	}
	for _, a := range c.Drop {
		if strings.EqualFold(string(a), "ALL") {
			clear(set)
		}
	}
	for _, a := range c.Add {
		if strings.EqualFold(string(a), "ALL") {
			for _, b := range grantable() {
				set[b] = true
			}
		} else {
			set[capName(a)] = true
		}
	}
	for _, d := range c.Drop {
		delete(set, capName(d))
	}
	list := make([]string, 0, len(set))
	for _, known := range allCapabilities {
		if set[known] {
			list = append(list, known)
		}
	}
	return list
}

func capName(c corev1.Capability) string {
	return "CAP_" + strings.TrimPrefix(strings.ToUpper(string(c)), "CAP_")
}

// grantable are the capabilities that can be given at all: a node that runs without
// some itself, in a container or a small virtual machine, has none of those to give.
var grantable = sync.OnceValue(func() []string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return allCapabilities
	}
	for line := range strings.Lines(string(status)) {
		value, ok := strings.CutPrefix(line, "CapBnd:")
		if !ok {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			break
		}
		var have []string
		for n, name := range allCapabilities {
			if bits>>n&1 == 1 {
				have = append(have, name)
			}
		}
		return have
	}
	return allCapabilities
})

// allCapabilities by number, as of Linux 5.9 (capabilities(7)); no later kernel has more.
var allCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
	"CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
	"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP",
	"CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
}
