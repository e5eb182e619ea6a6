package server

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// call is what the kernel shows to a filter.
type call struct {
	number, audit uint32
	args          [6]uint64
}

// machine interprets a filter as the kernel would.
func machine(t *testing.T, program []bpf.RawInstruction) func(call) uint32 {
	t.Helper()
	instructions, ok := bpf.Disassemble(program)
	if !ok {
		t.Fatal("the filter has instructions that cannot be read")
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	return func(c call) uint32 {
		// The interpreter reads words as they are in packets, the kernel in the machine's order: word by word.
		var data [64]byte
		word := func(at int, v uint32) { binary.BigEndian.PutUint32(data[at:], v) }
		word(dataNumber, c.number)
		word(dataArch, c.audit)
		for i, a := range c.args {
			word(dataArgs+8*i, uint32(a))
			word(dataArgs+8*i+4, uint32(a>>32))
		}
		ret, err := vm.Run(data[:])
		if err != nil {
			t.Fatal(err)
		}
		return uint32(ret)
	}
}

func translated(t *testing.T, p *configs.Seccomp, open []string) func(call) uint32 {
	t.Helper()
	program, err := translate(p, open)
	if err != nil {
		t.Fatal(err)
	}
	var raw []bpf.RawInstruction
	for _, i := range program {
		raw = append(raw, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	return machine(t, raw)
}

// byLibseccomp has a profile translated as libcontainer does, except for the numbers beyond its last.
func byLibseccomp(t *testing.T, p *configs.Seccomp) func(call) uint32 {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	action := func(a configs.Action, errno *uint) libseccomp.ScmpAction {
		if a == configs.Allow {
			return libseccomp.ActAllow
		}
		return libseccomp.ActErrno.SetReturnCode(int16(*errno))
	}
	filter, err := libseccomp.NewFilter(action(p.DefaultAction, p.DefaultErrnoRet))
	must(err)
	defer filter.Release()
	for _, name := range p.Architectures {
		arch, err := libseccomp.GetArchFromString(name)
		must(err)
		must(filter.AddArch(arch))
	}
	for _, c := range p.Syscalls {
		n, err := libseccomp.GetSyscallFromName(c.Name)
		if err != nil {
			continue
		}
		var conditions []libseccomp.ScmpCondition
		for _, a := range c.Args {
			op := map[configs.Operator]libseccomp.ScmpCompareOp{configs.EqualTo: libseccomp.CompareEqual, configs.NotEqualTo: libseccomp.CompareNotEqual, configs.MaskEqualTo: libseccomp.CompareMaskedEqual}[a.Op]
			condition, err := libseccomp.MakeCondition(a.Index, op, a.Value, a.ValueTwo)
			must(err)
			conditions = append(conditions, condition)
		}
		if conditions == nil {
			must(filter.AddRule(n, action(c.Action, c.ErrnoRet)))
		} else {
			must(filter.AddRuleConditional(n, action(c.Action, c.ErrnoRet), conditions))
		}
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "filter"))
	must(err)
	defer file.Close()
	must(filter.ExportBPF(file))
	b, err := os.ReadFile(file.Name())
	must(err)
	var raw []bpf.RawInstruction
	for ; len(b) > 0; b = b[8:] {
		raw = append(raw, bpf.RawInstruction{Op: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:])})
	}
	return machine(t, raw)
}

// stricter is the kernel's choice between two filters' answers.
func stricter(a, b uint32) uint32 {
	if int32(a&unix.SECCOMP_RET_ACTION_FULL) < int32(b&unix.SECCOMP_RET_ACTION_FULL) {
		return a
	}
	return b
}

// calls are all numbers there can be and some that cannot, of all known tables and one unknown, each with
// arguments that the profile's conditions tell apart.
func calls(yield func(call) bool) {
	random := rand.New(rand.NewPCG(1, 2))
	values := []uint64{0, 8, 0x20000, 0x20008, 0xffffffff, 0xffffffffffffffff, 1 << 32, 8 | 1<<40, unix.AF_VSOCK, unix.AF_INET, unix.AF_VSOCK | 1<<33, unix.AF_VSOCK << 32,
		unix.CLONE_NEWNS, unix.CLONE_NEWUSER | unix.CLONE_VM, unix.CLONE_VM | unix.CLONE_THREAD, unix.CLONE_VM | 1<<50}
	var numbers []uint32
	for n := range uint32(700) {
		numbers = append(numbers, n, x32Bit|n)
	}
	numbers = append(numbers, 5000, 1<<30-1, 1<<31, 1<<31|39, ^uint32(1))
	for range 200 {
		numbers = append(numbers, random.Uint32()&^x32Bit)
	}
	for _, audit := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_S390X} {
		for _, n := range numbers {
			for _, v := range values {
				if !yield(call{n, audit, [6]uint64{v, random.Uint64(), random.Uint64()}}) {
					return
				}
			}
		}
	}
}

var capabilitySets = map[string][]string{
	"none":    nil,
	"default": shim.DefaultCapabilities(),
	"admin":   {"CAP_SYS_ADMIN"},
	"many":    {"CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_SYS_TIME", "CAP_SYSLOG", "CAP_SYS_RAWIO"},
}

// TestTranslation: the translated profile answers as libseccomp's, except that what is above every
// known number is unknown, and that calls newer than libseccomp are known.
func TestTranslation(t *testing.T) {
	for name, capabilities := range capabilitySets {
		t.Run(name, func(t *testing.T) {
			p := runtimeDefault(capabilities, runtime.GOARCH)
			ours, theirs := translated(t, p, nil), byLibseccomp(t, p)
			last := map[uint32]uint32{}
			later := map[uint32]bool{}
			ints := map[[2]uint32]bool{} // calls of which the kernel reads half of each argument
			for _, arch := range p.Architectures {
				table := tables[arch]
				for _, c := range p.Syscalls {
					if n, ok := callNumber(c.Name, arch); ok {
						last[table.audit|table.base] = max(last[table.audit|table.base], n)
						later[n] = later[n] || laterCalls[c.Name] != 0
						ints[[2]uint32{table.audit, n}] = intCalls[c.Name]
					}
				}
			}
			enosys := unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
			for c := range calls {
				asked := c
				if ints[[2]uint32{c.audit, c.number}] {
					asked.args[0] = uint64(uint32(c.args[0]))
				}
				want := theirs(asked)
				table := c.audit
				if c.number >= x32Bit && last[c.audit|x32Bit] != 0 {
					table |= x32Bit
				}
				switch {
				case later[c.number] && last[table] != 0 && c.number <= last[table]:
					want = unix.SECCOMP_RET_ALLOW
				case last[table] != 0 && c.number > last[table] && want != unix.SECCOMP_RET_KILL:
					want = enosys
				}
				if got := ours(c); got != want {
					t.Fatalf("call %d of %#x with %#x: %#x, want %#x (libseccomp: %#x)", c.number, c.audit, c.args, got, want, theirs(c))
				}
			}
		})
	}
}

// TestHalves: the two filters of a container together are the profile, no more and no less, while the first
// alone lets the init stage work.
func TestHalves(t *testing.T) {
	for name, capabilities := range capabilitySets {
		t.Run(name, func(t *testing.T) {
			p := runtimeDefault(capabilities, runtime.GOARCH)
			late := lateFilter(p)
			var open []string
			for _, c := range late.Syscalls {
				open = append(open, c.Name)
			}
			whole, early, second := translated(t, p, nil), translated(t, p, open), byLibseccomp(t, late)
			for c := range calls {
				if got, want := stricter(early(c), second(c)), whole(c); got != want {
					t.Fatalf("call %d of %#x with %#x: %#x, want %#x", c.number, c.audit, c.args, got, want)
				}
			}
			for _, name := range initCalls {
				n, ok := callNumber(name, runtime.GOARCH)
				if got := early(call{number: n, audit: tables[runtime.GOARCH].audit}); !ok || got != unix.SECCOMP_RET_ALLOW {
					t.Errorf("%s: the init stage gets %#x", name, got)
				}
			}
		})
	}
}

func TestWhatCannotBeTranslated(t *testing.T) {
	errno := uint(unix.EPERM)
	for name, change := range map[string]func(*configs.Seccomp){
		"a default that allows":   func(p *configs.Seccomp) { p.DefaultAction = configs.Allow },
		"an unknown architecture": func(p *configs.Seccomp) { p.Architectures = append(p.Architectures, "vax") },
		"another action":          func(p *configs.Seccomp) { p.Syscalls[0].Action = configs.Notify },
		"two conditions":          func(p *configs.Seccomp) { p.Syscalls[0].Args = []*configs.Arg{{}, {}} },
		"another comparison":      func(p *configs.Seccomp) { p.Syscalls[0].Args = []*configs.Arg{{Op: configs.LessThan}} },
		"two answers": func(p *configs.Seccomp) {
			p.Syscalls = append(p.Syscalls, &configs.Syscall{Name: "read", Action: configs.Errno, ErrnoRet: &errno})
		},
	} {
		p := &configs.Seccomp{DefaultAction: configs.Errno, DefaultErrnoRet: &errno, Architectures: slices.Clone(architectures(runtime.GOARCH)),
			Syscalls: []*configs.Syscall{{Name: "read", Action: configs.Allow}}}
		if _, err := translate(p, nil); err != nil {
			t.Fatal(err)
		}
		change(p)
		if _, err := translate(p, nil); err == nil {
			t.Errorf("%s was translated", name)
		}
	}
	p := &configs.Seccomp{DefaultAction: configs.Errno, DefaultErrnoRet: &errno, Architectures: architectures(runtime.GOARCH),
		Syscalls: []*configs.Syscall{{Name: "mount", Action: configs.Allow, Args: []*configs.Arg{{Op: configs.EqualTo}}}}}
	if _, err := translate(p, []string{"mount"}); err == nil {
		t.Error("a call whose arguments the profile looks at was opened")
	}
}

// TestWhoGetsAnEarlyFilter: only the other half of one does, also when another build made it.
func TestWhoGetsAnEarlyFilter(t *testing.T) {
	var cache filterCache
	profile := runtimeDefault(nil, runtime.GOARCH)
	for name, tc := range map[string]struct {
		spec shim.ContainerSpec
		late *configs.Seccomp
		want bool
	}{
		"default":                   {shim.ContainerSpec{}, lateFilter(profile), true},
		"by name":                   {shim.ContainerSpec{Seccomp: shim.SeccompRuntimeDefault}, lateFilter(profile), true},
		"of a build without":        {shim.ContainerSpec{}, profile, false},
		"unconfined":                {shim.ContainerSpec{Seccomp: shim.SeccompUnconfined}, nil, false},
		"privileged":                {shim.ContainerSpec{Privileged: true}, nil, false},
		"an operator's that allows": {shim.ContainerSpec{Seccomp: shim.SeccompLocalhost}, &configs.Seccomp{DefaultAction: configs.Allow}, false},
	} {
		file, err := cache.early(&tc.spec, tc.late)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if program, err := readFilter(int(file.Fd())); err != nil || (len(program) > 0) != tc.want {
			t.Errorf("%s: %d instructions, %v", name, len(program), err)
		}
		if _, err := file.WriteAt([]byte{0}, 0); err == nil {
			t.Errorf("%s: the filter can be changed", name)
		}
		file.Close()
	}
	for i := range 3 * maxFilters {
		file, err := cache.early(&shim.ContainerSpec{Capabilities: []string{fmt.Sprint("CAP_", i)}}, lateFilter(profile))
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		if len(cache.programs) > maxFilters {
			t.Fatalf("%d filters are kept", len(cache.programs))
		}
	}
}

// TestOnlyAFilterIsTakenForOne: a stage whose descriptors are others than it was meant to have ends.
func TestOnlyAFilterIsTakenForOne(t *testing.T) {
	sealed := func(content string) *os.File {
		fd, err := unix.MemfdCreate("other", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "other")
		if _, err := file.WriteString(content); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, filterSeals); err != nil {
			t.Fatal(err)
		}
		return file
	}
	plain, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.WriteString(filterMagic); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]*os.File{
		"a file that can be changed": plain, "an empty one": sealed(""), "one that begins otherwise": sealed(filterMagic[1:]), "a torn one": sealed(filterMagic + "1234567"),
	} {
		if program, err := readFilter(int(file.Fd())); err == nil {
			t.Errorf("%s is taken for a filter of %d instructions", name, len(program))
		}
		file.Close()
	}
}

// BenchmarkFilters compares what an init stage would have libseccomp do with what it does.
func BenchmarkFilters(b *testing.B) {
	p := runtimeDefault(shim.DefaultCapabilities(), runtime.GOARCH)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	build := func(p *configs.Seccomp) {
		filter, err := libseccomp.NewFilter(libseccomp.ActErrno.SetReturnCode(1))
		if err != nil {
			b.Fatal(err)
		}
		if p.DefaultAction == configs.Allow {
			filter.Reset(libseccomp.ActAllow)
		}
		for _, name := range p.Architectures {
			arch, _ := libseccomp.GetArchFromString(name)
			filter.AddArch(arch)
		}
		if len(p.Syscalls) > 32 {
			filter.SetOptimize(2)
		}
		for _, c := range p.Syscalls {
			n, err := libseccomp.GetSyscallFromName(c.Name)
			if err != nil || len(c.Args) > 0 {
				continue
			}
			if c.Action == configs.Allow {
				filter.AddRule(n, libseccomp.ActAllow)
			} else {
				filter.AddRule(n, libseccomp.ActErrno.SetReturnCode(38))
			}
		}
		if err := filter.ExportBPF(null); err != nil {
			b.Fatal(err)
		}
		filter.Release()
	}
	late := lateFilter(p)
	b.Run("libseccomp-whole", func(b *testing.B) {
		for b.Loop() {
			build(p)
		}
	})
	b.Run("libseccomp-late", func(b *testing.B) {
		for b.Loop() {
			build(late)
		}
	})
	b.Run("translate", func(b *testing.B) {
		for b.Loop() {
			if _, err := translate(p, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
