package server

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer/configs"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// A container under RuntimeDefault has two filters; the kernel asks both and
// takes the stricter answer:
//
//	early   the whole profile, translated here, once for each set of capabilities. The init stage
//	        loads it before libcontainer's code begins, so it also allows what that code needs (initCalls).
//	late    libcontainer's own, made by libseccomp in every init stage, as late as can be: it allows
//	        everything but those calls.
//
// libseccomp takes 12 ms for the whole profile and two tables of calls, in each start and each exec;
// for the late one 0.1. What an operator wrote (Localhost) is libseccomp's alone.

// initCalls are made by libcontainer's init stage and not by containers. (Those that a container's
// capabilities allow stay allowed.) Without one of them a container fails to be made, and says so.
var initCalls = []string{
	"chroot", "fsconfig", "fsmount", "fsopen", "fspick", "keyctl", "mount", "mount_setattr", "move_mount",
	"open_tree", "pivot_root", "setdomainname", "sethostname", "setns", "umount2", "unshare",
}

// lateFilter is the half that libcontainer is given. Calls that its libseccomp does not know are
// not denied by it, and therefore not allowed by the other half either.
func lateFilter(profile *configs.Seccomp) *configs.Seccomp {
	late := &configs.Seccomp{DefaultAction: configs.Allow, Architectures: profile.Architectures}
	for _, name := range initCalls {
		known := slices.ContainsFunc(profile.Syscalls, func(c *configs.Syscall) bool { return c.Name == name })
		if n, err := libseccomp.GetSyscallFromName(name); known || err != nil || n < 0 {
			continue
		}
		late.Syscalls = append(late.Syscalls, &configs.Syscall{Name: name, Action: configs.Errno, ErrnoRet: profile.DefaultErrnoRet})
	}
	return late
}

// filterCache keeps early filters; its zero value is ready.
type filterCache struct {
	mu       sync.Mutex
	programs map[string][]unix.SockFilter
}

// maxFilters bounds the cache: so many different sets of capabilities are not on one node.
const maxFilters = 64

// early returns the filter that goes before late, as a file for the init stage; an empty one if late is no half of
// one. What it allows beyond the profile is read off late, so that the two fit also when an
// earlier build made that one.
func (f *filterCache) early(spec *shim.ContainerSpec, late *configs.Seccomp) (*os.File, error) {
	if spec.Privileged || late == nil || late.DefaultAction != configs.Allow ||
		spec.Seccomp != "" && spec.Seccomp != shim.SeccompRuntimeDefault {
		return filterFile(nil)
	}
	var open []string
	for _, c := range late.Syscalls {
		open = append(open, c.Name)
	}
	key := strings.Join(slices.Sorted(slices.Values(spec.Capabilities)), " ") + "\n" + strings.Join(open, " ")
	f.mu.Lock()
	defer f.mu.Unlock()
	program, ok := f.programs[key]
	if !ok {
		var err error
		if program, err = translate(runtimeDefault(spec.Capabilities, runtime.GOARCH), open); err != nil {
			return nil, fmt.Errorf("translate the seccomp profile: %w", err)
		}
		if f.programs == nil || len(f.programs) >= maxFilters {
			f.programs = map[string][]unix.SockFilter{}
		}
		f.programs[key] = program
	}
	return filterFile(program)
}

// table is the calls of one architecture, as a profile and libseccomp name it.
type table struct {
	audit uint32 // the kernel's name for it
	base  uint32 // of its numbers
	wide  bool   // arguments have 64 bits
}

const x32Bit = 0x40000000

var tables = map[string]table{
	"amd64": {unix.AUDIT_ARCH_X86_64, 0, true},
	"x86":   {unix.AUDIT_ARCH_I386, 0, false},
	"x32":   {unix.AUDIT_ARCH_X86_64, x32Bit, true},
	"arm64": {unix.AUDIT_ARCH_AARCH64, 0, true},
	"arm":   {unix.AUDIT_ARCH_ARM, 0, false},
}

// laterCalls have the same number in every table, and may be newer than the libseccomp
// that this was built with.
var laterCalls = map[string]uint32{
	"cachestat": unix.SYS_CACHESTAT, "fchmodat2": unix.SYS_FCHMODAT2, "map_shadow_stack": unix.SYS_MAP_SHADOW_STACK,
	"futex_wake": unix.SYS_FUTEX_WAKE, "futex_wait": unix.SYS_FUTEX_WAIT, "futex_requeue": unix.SYS_FUTEX_REQUEUE,
	"statmount": unix.SYS_STATMOUNT, "listmount": unix.SYS_LISTMOUNT, "mseal": unix.SYS_MSEAL,
	"setxattrat": unix.SYS_SETXATTRAT, "getxattrat": unix.SYS_GETXATTRAT,
	"listxattrat": unix.SYS_LISTXATTRAT, "removexattrat": unix.SYS_REMOVEXATTRAT,
}

// directCalls are what x86 also has by a number of its own beside socketcall and ipc, for which alone
// libseccomp has a name. (arch/x86/entry/syscalls/syscall_32.tbl)
var directCalls = map[string]uint32{
	"recvmmsg": 337, "sendmmsg": 345, "socket": 359, "socketpair": 360, "bind": 361, "connect": 362, "listen": 363, "accept4": 364,
	"getsockopt": 365, "setsockopt": 366, "getsockname": 367, "getpeername": 368, "sendto": 369, "sendmsg": 370, "recvfrom": 371, "recvmsg": 372, "shutdown": 373,
	"semget": 393, "semctl": 394, "shmget": 395, "shmctl": 396, "shmat": 397, "shmdt": 398, "msgget": 399, "msgsnd": 400, "msgrcv": 401, "msgctl": 402,
}

// callNumber of a name, if the architecture has the call.
func callNumber(name, arch string) (uint32, bool) {
	t := tables[arch]
	if n, ok := laterCalls[name]; ok {
		return t.base | n, true
	}
	if n, ok := directCalls[name]; ok && arch == "x86" {
		return n, true
	}
	a, err := libseccomp.GetArchFromString(arch)
	if err != nil {
		return 0, false
	}
	n, err := libseccomp.GetSyscallFromNameByArch(name, a)
	if err != nil || n < 0 { // negative: a call of other architectures
		return 0, false
	}
	return t.base | uint32(n), true
}

// intCalls take their arguments as ints: the kernel drops the upper halves of the registers, and so
// does a comparison here. Else what is refused would be had by setting a bit that nobody reads.
var intCalls = map[string]bool{"socket": true, "personality": true}

// verdict is a filter's answer to a call: then if one of when holds of its arguments, else otherwise.
// Without when it is then.
type verdict struct {
	then, otherwise uint32
	when            []*configs.Arg
	wide            bool
}

func (v verdict) equal(w verdict) bool { return len(v.when)+len(w.when) == 0 && v.then == w.then }

// span is a verdict on all numbers from first to the next span's.
type span struct {
	first uint32
	verdict
}

func fails(errno uint) verdict { return verdict{then: unix.SECCOMP_RET_ERRNO | uint32(errno)} }

// translate makes one of the kernel's filters of a profile, in which open is allowed, too, by the
// machine's own table of calls. A number above those that the profile knows is answered like one
// that the kernel does not know, so that programs fall back; that is libcontainer's way, too.
func translate(p *configs.Seccomp, open []string) ([]unix.SockFilter, error) {
	if p.DefaultAction != configs.Errno || p.DefaultErrnoRet == nil {
		return nil, errors.New("only a profile that answers with an error by default can be translated")
	}
	spans := map[uint32][]span{}
	var order []uint32
	for _, arch := range p.Architectures {
		t, ok := tables[arch]
		if !ok {
			return nil, fmt.Errorf("architecture %q is unknown", arch)
		}
		calls, err := verdicts(p, arch)
		if err != nil {
			return nil, err
		}
		var last uint32
		for n := range calls {
			last = max(last, n)
		}
		if arch == runtime.GOARCH {
			for _, name := range open {
				n, ok := callNumber(name, arch)
				if v := calls[n]; !ok || len(v.when) > 0 {
					return nil, fmt.Errorf("system call %q cannot be opened for the init stage", name)
				}
				calls[n] = verdict{then: unix.SECCOMP_RET_ALLOW}
			}
		}
		if spans[t.audit] == nil {
			order = append(order, t.audit)
		}
		spans[t.audit] = append(spans[t.audit], spansOf(calls, t.base, last, fails(*p.DefaultErrnoRet))...)
	}
	if native := spans[unix.AUDIT_ARCH_X86_64]; native != nil && !slices.Contains(p.Architectures, "x32") {
		// Another table's number under this one's name; -1 is what a tracer makes of a call to be left out.
		spans[unix.AUDIT_ARCH_X86_64] = append(native, span{x32Bit, verdict{then: unix.SECCOMP_RET_KILL}}, span{^uint32(0), fails(*p.DefaultErrnoRet)})
	}
	return assemble(order, spans)
}

// verdicts lists what the profile says of an architecture's calls by their numbers.
func verdicts(p *configs.Seccomp, arch string) (map[uint32]verdict, error) {
	calls := map[uint32]verdict{}
	for _, c := range p.Syscalls {
		n, ok := callNumber(c.Name, arch)
		if !ok {
			continue
		}
		var v verdict
		switch {
		case c.Action == configs.Allow:
			v.then = unix.SECCOMP_RET_ALLOW
		case c.Action == configs.Errno && c.ErrnoRet != nil:
			v = fails(*c.ErrnoRet)
		default:
			return nil, fmt.Errorf("the action on system call %q cannot be translated", c.Name)
		}
		if len(c.Args) > 1 {
			return nil, fmt.Errorf("more than one condition on system call %q cannot be translated", c.Name)
		}
		v.when, v.wide, v.otherwise = c.Args, tables[arch].wide && !intCalls[c.Name], fails(*p.DefaultErrnoRet).then
		if before, ok := calls[n]; ok { // any one of several rules is enough
			if before.then != v.then {
				return nil, fmt.Errorf("several actions on system call %q cannot be translated", c.Name)
			}
			if len(before.when) == 0 || len(v.when) == 0 {
				v.when = nil
			} else {
				v.when = slices.Concat(before.when, v.when)
			}
		}
		calls[n] = v
	}
	return calls, nil
}

// spansOf covers all numbers from base on.
func spansOf(calls map[uint32]verdict, base, last uint32, otherwise verdict) []span {
	spans := []span{{base, otherwise}}
	add := func(first uint32, v verdict) {
		end := &spans[len(spans)-1]
		switch {
		case end.equal(v):
		case end.first == first:
			end.verdict = v
		default:
			spans = append(spans, span{first, v})
		}
	}
	unknown := fails(uint(unix.ENOSYS))
	next := base
	gap := func(to uint32) { // numbers from next to to are not listed
		if next <= last && next < to {
			add(next, otherwise)
		}
		if to > last+1 {
			add(max(next, last+1), unknown)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(calls)) {
		gap(n)
		add(n, calls[n])
		next = n + 1
	}
	add(max(next, last+1), unknown)
	return spans
}

// Offsets in the kernel's struct seccomp_data. Words are in the machine's order: little endian on all that are known here.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func answer(ret uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: ret}
}

func skip(n int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(n)}
}

// jump compares by op what was loaded, and skips yes or no instructions.
func jump(op uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: yes, Jf: no}
}

// assemble asks for the architecture, then by halves for the number.
func assemble(order []uint32, spans map[uint32][]span) ([]unix.SockFilter, error) {
	program := []unix.SockFilter{load(dataArch)}
	for _, audit := range order {
		slices.SortStableFunc(spans[audit], func(a, b span) int { return cmp.Compare(a.first, b.first) })
		section, err := halve(spans[audit])
		if err != nil {
			return nil, err
		}
		program = append(program, jump(unix.BPF_JEQ, audit, 1, 0), skip(len(section)+1), load(dataNumber))
		program = append(program, section...)
	}
	program = append(program, answer(unix.SECCOMP_RET_KILL))
	if len(program) > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("%d instructions are more than the kernel takes", len(program))
	}
	return program, nil
}

func halve(spans []span) ([]unix.SockFilter, error) {
	if len(spans) == 1 {
		return spans[0].instructions()
	}
	mid := len(spans) / 2
	low, err := halve(spans[:mid])
	if err != nil {
		return nil, err
	}
	high, err := halve(spans[mid:])
	if err != nil {
		return nil, err
	}
	first := []unix.SockFilter{jump(unix.BPF_JGE, spans[mid].first, uint8(min(len(low), 255)), 0)}
	if len(low) > 255 {
		first = []unix.SockFilter{jump(unix.BPF_JGE, spans[mid].first, 0, 1), skip(len(low))}
	}
	return slices.Concat(first, low, high), nil
}

// instructions of a verdict: conditions one after the other, each of which answers or goes on to the next.
func (v verdict) instructions() ([]unix.SockFilter, error) {
	if len(v.when) == 0 {
		return []unix.SockFilter{answer(v.then)}, nil
	}
	var out []unix.SockFilter
	for _, a := range v.when {
		low := load(dataArgs + 8*uint32(a.Index))
		high := load(dataArgs + 8*uint32(a.Index) + 4)
		var test []unix.SockFilter
		switch a.Op {
		case configs.EqualTo:
			if v.wide {
				test = append(test, high, jump(unix.BPF_JEQ, uint32(a.Value>>32), 0, 3))
			}
			test = append(test, low, jump(unix.BPF_JEQ, uint32(a.Value), 0, 1))
		case configs.NotEqualTo:
			if v.wide {
				test = append(test, high, jump(unix.BPF_JEQ, uint32(a.Value>>32), 0, 2))
			}
			test = append(test, low, jump(unix.BPF_JEQ, uint32(a.Value), 1, 0))
		case configs.MaskEqualTo: // Value is the mask
			and := func(k uint32) unix.SockFilter {
				return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: k}
			}
			if v.wide {
				test = append(test, high, and(uint32(a.Value>>32)), jump(unix.BPF_JEQ, uint32(a.ValueTwo>>32), 0, 4))
			}
			test = append(test, low, and(uint32(a.Value)), jump(unix.BPF_JEQ, uint32(a.ValueTwo), 0, 1))
		default:
			return nil, fmt.Errorf("the comparison %d of an argument cannot be translated", a.Op)
		}
		out = append(append(out, test...), answer(v.then))
	}
	return append(out, answer(v.otherwise)), nil
}

// Every init stage is given a sealed file, the first of its extra files, which begins with filterMagic; the
// early filter follows, if there is one. A stage without such a file ends: were descriptors ever to come in
// another order, a container would not be made, rather than be made with half of its filter.
const (
	filterFD    = 3
	filterSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	filterMagic = "kontiki early seccomp filter v1\n"
)

func filterFile(program []unix.SockFilter) (*os.File, error) {
	const name = "seccomp"
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), name)
	if _, err := file.Write(append([]byte(filterMagic), bytesOf(program)...)); err != nil {
		file.Close()
		return nil, fmt.Errorf("write the seccomp filter: %w", err)
	}
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, filterSeals); err != nil {
		file.Close()
		return nil, os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
	}
	return file, nil
}

// bytesOf shows a program as the kernel reads it.
func bytesOf(program []unix.SockFilter) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(program))), len(program)*int(unsafe.Sizeof(unix.SockFilter{})))
}

// EnterFilter is called by an init stage before libcontainer's code, on the thread that will execute the
// container's program. It puts the thread under the early filter, if the stage was given one. The file
// stays, under its number, until that execution closes it: libcontainer keeps the extra files for the program.
func EnterFilter() error {
	program, err := readFilter(filterFD)
	if err != nil || len(program) == 0 {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
	runtime.KeepAlive(program)
	return os.NewSyscallError("load the seccomp filter", err)
}

// readFilter reads what filterFile wrote, and nothing else.
func readFilter(fd int) ([]unix.SockFilter, error) {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&filterSeals != filterSeals {
		return nil, fmt.Errorf("descriptor %d is not the file of the seccomp filter", fd)
	}
	var magic [len(filterMagic)]byte
	if n, err := unix.Pread(fd, magic[:], 0); err != nil || string(magic[:n]) != filterMagic {
		return nil, fmt.Errorf("descriptor %d is not the file of the seccomp filter (%v)", fd, err)
	}
	program := make([]unix.SockFilter, unix.BPF_MAXINSNS)
	n, err := unix.Pread(fd, bytesOf(program), int64(len(filterMagic)))
	if err != nil {
		return nil, fmt.Errorf("read the seccomp filter: %w", err)
	}
	size := int(unsafe.Sizeof(unix.SockFilter{}))
	if n%size != 0 {
		return nil, fmt.Errorf("the seccomp filter has %d bytes", n)
	}
	unix.CloseOnExec(fd)
	return program[:n/size], nil
}
