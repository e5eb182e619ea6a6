package server

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

//go:embed seccomp_default.txt
var seccompList string

// seccompArchitectures are whose tables of calls a kernel of the machine can have; the filter ends a
// process that makes a call through another.
var seccompArchitectures = map[string][]string{
	"amd64": {"amd64", "x86", "x32"},
	"arm64": {"arm64", "arm"},
}

// architectures leaves out what this kernel does not run: less to do in every init stage.
func architectures(arch string) []string {
	return slices.DeleteFunc(slices.Clone(seccompArchitectures[arch]), func(a string) bool { return a == "x32" && !kernelRunsX32() })
}

// kernelRunsX32 asks for the process id through that table.
var kernelRunsX32 = sync.OnceValue(func() bool {
	_, _, errno := unix.RawSyscall(x32Bit|unix.SYS_GETPID, 0, 0, 0)
	return errno == 0
})

// namespaceFlags are the bits of clone's flags that make namespaces.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// seccompProfile turns a specification's profile into libcontainer's; nil is unconfined. RuntimeDefault is that in two
// halves, see filter.go.
func seccompProfile(spec *shim.ContainerSpec) (*configs.Seccomp, error) {
	if spec.Privileged {
		return nil, nil
	}
	switch spec.Seccomp {
	case shim.SeccompUnconfined:
		return nil, nil
	case "", shim.SeccompRuntimeDefault:
		profile := runtimeDefault(spec.Capabilities, runtime.GOARCH)
		if len(profile.Architectures) == 0 { // a machine whose tables are not known here
			return profile, nil
		}
		return lateFilter(profile), nil
	case shim.SeccompLocalhost:
		return localhostProfile(spec.SeccompProfile)
	default:
		return nil, fmt.Errorf("seccomp profile %q is none of %s, %s and %s: %w", spec.Seccomp, shim.SeccompRuntimeDefault, shim.SeccompUnconfined, shim.SeccompLocalhost, shim.ErrInvalid)
	}
}

// localhostProfile reads a profile that an operator wrote. One that allows nothing at
// all by mistake (no defaultAction, a misspelt one) is an error, not a filter.
func localhostProfile(text []byte) (*configs.Seccomp, error) {
	var profile specs.LinuxSeccomp
	if err := json.Unmarshal(text, &profile); err != nil {
		return nil, fmt.Errorf("read seccomp profile: %w: %w", err, shim.ErrInvalid)
	}
	if profile.DefaultAction == "" {
		return nil, fmt.Errorf("seccomp profile without defaultAction: %w", shim.ErrInvalid)
	}
	p, err := specconv.SetupSeccomp(&profile)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w: %w", err, shim.ErrInvalid)
	}
	return p, nil
}

func runtimeDefault(capabilities []string, arch string) *configs.Seccomp {
	eperm := uint(unix.EPERM)
	p := &configs.Seccomp{DefaultAction: configs.Errno, DefaultErrnoRet: &eperm, Architectures: architectures(arch)}
	allow := func(name string, args ...*configs.Arg) {
		p.Syscalls = append(p.Syscalls, &configs.Syscall{Name: name, Action: configs.Allow, Args: args})
	}
	seen := map[string]bool{}
	for line := range strings.Lines(seccompList) {
		condition, names, ok := strings.Cut(line, ":")
		if !ok || line[0] == '#' {
			continue
		}
		if condition == "any" || condition == arch || slices.Contains(capabilities, condition) {
			for _, name := range strings.Fields(names) {
				if !seen[name] { // several capabilities allow the same
					seen[name] = true
					allow(name)
				}
			}
		}
	}
	// Execution domains: Linux, its 32-bit one, both with randomization off, and "tell me".
	for _, domain := range []uint64{0, 0x8, 0x20000, 0x20008, 0xffffffff} {
		allow("personality", &configs.Arg{Index: 0, Value: domain, Op: configs.EqualTo})
	}
	// AF_VSOCK would reach the hypervisor past the network namespace.
	allow("socket", &configs.Arg{Index: 0, Value: unix.AF_VSOCK, Op: configs.NotEqualTo})
	if !slices.Contains(capabilities, "CAP_SYS_ADMIN") {
		allow("clone", &configs.Arg{Index: 0, Value: namespaceFlags, ValueTwo: 0, Op: configs.MaskEqualTo})
		// clone3's flags are behind a pointer, where no filter looks; ENOSYS makes libraries fall back to clone.
		enosys := uint(unix.ENOSYS)
		p.Syscalls = append(p.Syscalls, &configs.Syscall{Name: "clone3", Action: configs.Errno, ErrnoRet: &enosys})
	}
	return p
}
