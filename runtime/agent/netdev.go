package agent

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// defaultInterface is the one whose figures stand for a pod's network.
const defaultInterface = "eth0"

// netDevices reads the counters of the network that a process is in; of a
// pod's, so that nobody has to enter it.
func netDevices(pid int) ([]statsapi.InterfaceStats, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseNetDevices(f)
}

// parseNetDevices reads proc_pid_net_dev(5): two lines of heading, then NAME:
// eight numbers of what was received, eight of what was sent.
func parseNetDevices(r io.Reader) ([]statsapi.InterfaceStats, error) {
	var list []statsapi.InterfaceStats
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		name, rest, ok := strings.Cut(sc.Text(), ":")
		fields := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || len(fields) < 16 || name == "lo" {
			continue
		}
		number := func(i int) *uint64 {
			n, err := strconv.ParseUint(fields[i], 10, 64)
			if err != nil {
				return nil
			}
			return &n
		}
		list = append(list, statsapi.InterfaceStats{Name: name, RxBytes: number(0), RxErrors: number(2), TxBytes: number(8), TxErrors: number(10)})
	}
	return list, sc.Err()
}
