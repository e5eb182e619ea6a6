package server

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

func TestParseStat(t *testing.T) {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if st, err := parseStat(b); err != nil || st.startTime == 0 || st.state == 'Z' {
		t.Fatalf("%+v, %v", st, err)
	}
	hostile := "17 (a) Z 1 (b) ) S 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 777 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1792"
	if st, err := parseStat([]byte(hostile)); err != nil || st.startTime != 777 || st.state != 'S' || st.exitCode != 1792 {
		t.Fatalf("%+v, %v", st, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("1 (x) S 1"))
	f.Fuzz(func(t *testing.T, b []byte) { parseStat(b) })
}

func TestEnding(t *testing.T) {
	for _, tc := range []struct {
		e            ending
		code, signal int
	}{
		{ending{status: 7 << 8}, 7, 0},
		{ending{status: 9}, 137, 9},
		{ending{status: 15 | 0x80}, 143, 15}, // with a core dump
		{ending{unknown: true}, 137, 0},
	} {
		if code, signal := tc.e.codeOf(); code != tc.code || signal != tc.signal {
			t.Errorf("%+v: %d, %d", tc.e, code, signal)
		}
	}
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"", ".", "..", ".x", "a/b", "a b", "ä", string(make([]byte, 200))} {
		if err := checkID("container", id); !errors.Is(err, shim.ErrInvalid) {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"a", "a.b", "0f3e-11_x"} {
		if err := checkID("container", id); err != nil {
			t.Error(err)
		}
	}
}

func TestCgroupTree(t *testing.T) {
	for _, tc := range []struct {
		root    string
		systemd bool // runs the machine
		class   shim.QOSClass
		want    string // the group of container c.0 of pod x-y
	}{
		{"/kontiki", false, shim.Guaranteed, "/kontiki/kubepods/podx-y/c.0"},
		{"/kontiki", false, shim.Burstable, "/kontiki/kubepods/burstable/podx-y/c.0"},
		{"/kontiki", false, shim.BestEffort, "/kontiki/kubepods/besteffort/podx-y/c.0"},
		{"/", false, shim.Guaranteed, "/kubepods/podx-y/c.0"},
		{"/kontiki", true, shim.Guaranteed, "/kontiki/kubepods/podx-y/c.0"}, // a place that somebody has made for it
		{"/", true, shim.Guaranteed, "/kubepods.slice/kubepods-podx_y.slice/kontiki-c.0.scope"},
		{"/", true, shim.Burstable, "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx_y.slice/kontiki-c.0.scope"},
		{"", true, shim.BestEffort, "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podx_y.slice/kontiki-c.0.scope"},
	} {
		tr := newTree(tc.root, tc.systemd)
		pod, err := tr.pod(tc.class, "x-y")
		if got := containerGroup(pod, "c.0"); err != nil || got != tc.want {
			t.Errorf("root %s, systemd %v, %s: %s, %v", tc.root, tc.systemd, tc.class, got, err)
		}
		if _, err := tr.pod("other", "x"); !errors.Is(err, shim.ErrInvalid) {
			t.Error(err)
		}
	}
}

// TestGroupsBySystemd: what a group's path says is what systemd is asked for.
func TestGroupsBySystemd(t *testing.T) {
	for group, want := range map[string]cgroups.Cgroup{
		"/kubepods/podx/c.0":                                        {Path: "/kubepods/podx/c.0"},
		"/kubepods.slice":                                           {Systemd: true, Parent: "-.slice", Name: "kubepods.slice"},
		"/kubepods.slice/kubepods-podx_y.slice":                     {Systemd: true, Parent: "kubepods.slice", Name: "kubepods-podx_y.slice"},
		"/kubepods.slice/kubepods-podx_y.slice/kontiki-c.0.scope":   {Systemd: true, Parent: "kubepods-podx_y.slice", ScopePrefix: "kontiki", Name: "c.0"},
		"/kubepods.slice/kubepods-podx_y.slice/kontiki-c-d.0.scope": {Systemd: true, Parent: "kubepods-podx_y.slice", ScopePrefix: "kontiki", Name: "c-d.0"},
	} {
		if got := groupConfig(group, nil); !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %+v, want %+v", group, *got, want)
		}
	}
}

func allowed(p *configs.Seccomp, name string) []*configs.Syscall {
	var out []*configs.Syscall
	for _, s := range p.Syscalls {
		if s.Name == name {
			out = append(out, s)
		}
	}
	return out
}

// TestFilteredTables: of what a kernel cannot run, none costs a container's start.
func TestFilteredTables(t *testing.T) {
	for arch, want := range map[string][]string{"amd64": {"amd64", "x86"}, "arm64": {"arm64", "arm"}} {
		if arch == "amd64" && kernelRunsX32() {
			want = append(want, "x32")
		}
		if got := runtimeDefault(nil, arch).Architectures; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", arch, got, want)
		}
	}
	if !slices.Equal(seccompArchitectures["amd64"], []string{"amd64", "x86", "x32"}) {
		t.Errorf("the list itself was changed: %v", seccompArchitectures["amd64"])
	}
}

func TestRuntimeDefault(t *testing.T) {
	p := runtimeDefault(shim.DefaultCapabilities(), "amd64")
	for _, name := range []string{"read", "execve", "arch_prctl", "chroot", "futex_waitv"} {
		if len(allowed(p, name)) != 1 {
			t.Errorf("%s: %v", name, allowed(p, name))
		}
	}
	for _, name := range []string{"mount", "bpf", "reboot", "init_module", "keyctl", "io_uring_setup", "kexec_load", "userfaultfd", "setns"} {
		if len(allowed(p, name)) != 0 {
			t.Errorf("%s is allowed", name)
		}
	}
	if c := allowed(p, "clone"); len(c) != 1 || len(c[0].Args) != 1 {
		t.Errorf("clone: %v", c)
	}
	if c := allowed(p, "clone3"); len(c) != 1 || c[0].Action != configs.Errno || *c[0].ErrnoRet != uint(unix.ENOSYS) {
		t.Errorf("clone3: %v", c)
	}
	admin := runtimeDefault([]string{"CAP_SYS_ADMIN", "CAP_BPF", "CAP_PERFMON"}, "amd64")
	for _, name := range []string{"mount", "bpf", "clone", "clone3", "perf_event_open"} {
		if a := allowed(admin, name); len(a) != 1 || a[0].Action != configs.Allow || a[0].Args != nil {
			t.Errorf("%s with CAP_SYS_ADMIN: %v", name, a)
		}
	}
}

func TestMountsOfTheSpecificationReplaceStandardOnes(t *testing.T) {
	spec := &shim.ContainerSpec{Mounts: []shim.Mount{{Type: shim.MountTmpfs, Destination: "/dev/shm/", Data: "size=1m"}}}
	mounts, shared, err := containerMounts(spec, &sandbox{dir: "/x"})
	if err != nil || shared {
		t.Fatal(shared, err)
	}
	var at []string
	for _, m := range mounts {
		if m.Destination == "/dev/shm" {
			at = append(at, m.Device)
		}
	}
	if !slices.Equal(at, []string{"tmpfs"}) {
		t.Errorf("at /dev/shm: %v", at)
	}
}

func TestSysctls(t *testing.T) {
	own, host := shim.SandboxSpec{}, shim.SandboxSpec{HostNetwork: true, HostIPC: true}
	for name, want := range map[string]bool{"net.ipv4.ip_forward": true, "kernel.shmmax": true, "fs.mqueue.msg_max": true, "vm.swappiness": false, "kernel.panic": false} {
		if namespacedSysctl(name, own) != want || namespacedSysctl(name, host) {
			t.Errorf("%s: %v, %v", name, namespacedSysctl(name, own), namespacedSysctl(name, host))
		}
	}
}
