package node

import (
	"testing"
	"testing/fstest"
)

func TestMemoryLimit(t *testing.T) {
	const (
		v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		v1 = "33 25 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n" +
			"34 25 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
		hybrid = v1 + "26 25 0:23 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw\n"
		part   = "700 690 0:30 /docker/c1 /sys/fs/cgroup/memory ro master:9 - cgroup cgroup rw,memory\n"
	)
	for name, test := range map[string]struct {
		mounts, groups string
		files          map[string]string // below /sys/fs/cgroup
		want           uint64
	}{
		"v2, of the service": {v2, "0::/system.slice/kontiki.service\n", map[string]string{
			"system.slice/kontiki.service/memory.max": "1073741824\n", "system.slice/memory.max": "max\n"}, 1 << 30},
		"v2, of what it is within": {v2, "0::/a/b\n", map[string]string{"a/b/memory.max": "max\n", "a/memory.max": "4096\n"}, 4096},
		"v2, where it is slowed":   {v2, "0::/a\n", map[string]string{"a/memory.max": "8192\n", "a/memory.high": "4096\n"}, 4096},
		"v2, in a namespace":       {v2, "0::/\n", map[string]string{"memory.max": "4096\n"}, 4096},
		"v2, none":                 {v2, "0::/a\n", map[string]string{"a/memory.max": "max\n"}, noLimit},
		"v1": {v1, "4:memory:/kontiki\n3:cpu,cpuacct:/x\n", map[string]string{
			"memory/kontiki/memory.limit_in_bytes": "4096\n", "memory/memory.limit_in_bytes": "9223372036854771712\n",
			"cpu,cpuacct/x/memory.limit_in_bytes": "1\n"}, 4096},
		"v1, none": {v1, "4:memory:/\n", map[string]string{"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 9223372036854771712},
		"both kinds": {hybrid, "4:memory:/kontiki\n0::/kontiki\n", map[string]string{
			"memory/kontiki/memory.limit_in_bytes": "4096\n"}, 4096},
		"a container that sees its part":  {part, "4:memory:/docker/c1\n", map[string]string{"memory/memory.limit_in_bytes": "4096\n"}, 4096},
		"a group within that part":        {part, "4:memory:/docker/c1/own\n", map[string]string{"memory/own/memory.limit_in_bytes": "4096\n"}, 4096},
		"a part that it is not within":    {part, "4:memory:/docker/c10\n", map[string]string{"memory/0/memory.limit_in_bytes": "1\n", "memory/memory.limit_in_bytes": "4096\n"}, 4096},
		"no memory controller":            {v2, "0::/a\n", nil, noLimit},
		"nothing that could be told from": {"", "", nil, noLimit},
		"what is not to be understood":    {"x\n1 - cgroup2\n", "0:\n", nil, noLimit},
	} {
		files := fstest.MapFS{
			"proc/self/mountinfo": {Data: []byte(test.mounts)},
			"proc/self/cgroup":    {Data: []byte(test.groups)},
		}
		for path, content := range test.files {
			files["sys/fs/cgroup/"+path] = &fstest.MapFile{Data: []byte(content)}
		}
		if got := memoryLimit(files); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
	if got := memoryLimit(fstest.MapFS{}); got != noLimit {
		t.Errorf("without /proc: %d, want no limit", got)
	}
}
