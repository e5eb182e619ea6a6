package main

// section is a part of the table: a program of the bench, which writes its rows
// itself, benchmarks of packages, or both.
type section struct {
	name, about string
	program     string   // package of the program, below the module's root
	needs       []string // programs that it drives: built by the Makefile, looked for before it starts
	packages    []string // packages whose benchmarks are run,
	only        string   // those whose names match this; all when empty
	rows        []named  // and the rows that are made of them
}

// named makes a row of one metric of one benchmark. Metrics that nothing names
// are rows without target.
type named struct {
	bench        string // as go test prints it, without "Benchmark" and the number of CPUs
	metric       string // "ns/op", "MB/s", or what the benchmark reports itself; "ns/op" when empty
	what         string
	unit         string // the row's: for ns/op one of ns, µs, ms, s, or "/s" for its inverse
	target       string
	peer, called string // a benchmark whose same metric is the peer, and the peer's name
}

var sections = []section{
	{
		name: "store", about: "the replicated store, three processes, beside etcd-server (installed if missing and root)",
		program: "bench/raftstore",
	},
	{
		name: "api", about: "the Kubernetes API, beside upstream's kube-apiserver and etcd (needs root)",
		program: "bench/api", needs: []string{"kontiki"},
		packages: []string{"apiserver"}, only: "^BenchmarkServer$",
		rows: []named{
			{bench: "Server", metric: "s-ready", what: "start of the API server alone, store included, to ready", unit: "s", target: "≤ 1.5 s"},
			{bench: "Server", metric: "MB", what: "resident memory of an idle process with store and API server alone", unit: "MB", target: "≤ 130 MB"},
			{bench: "Server", metric: "MB-anonymous", what: "anonymous memory of the same", unit: "MB", target: "≤ 65 MB"},
		},
	},
	{
		name: "cluster", about: "three whole nodes on virtual hosts: their birth, what they use idle, how one comes back that was cut off, and how one that was lost is replaced (needs root)",
		program: "bench/cluster", needs: []string{"kontiki", "examples/web.tar"},
	},
	{
		name: "overlay", about: "the pod network, beside a bare VXLAN (needs root)",
		packages: []string{"overlay", "overlay/nft", "overlay/dns"},
		rows: []named{
			{bench: "Ways/throughput/kontiki", metric: "MB/s", what: "TCP from pod to pod across nodes", unit: "MB/s", target: "≥ 0.97 ×", peer: "Ways/throughput/bare", called: "bare VXLAN"},
			{bench: "Ways/latency/kontiki", metric: "µs", what: "round trip from pod to pod across nodes", unit: "µs", target: "≤ 1.05 ×", peer: "Ways/latency/bare", called: "bare VXLAN"},
			{bench: "Ways/connect/kontiki", metric: "µs", what: "connection from pod to pod across nodes", unit: "µs", peer: "Ways/connect/bare", called: "bare VXLAN"},
			{bench: "Ways/throughput/service", metric: "MB/s", what: "TCP through a Service across nodes", unit: "MB/s", target: "≥ 0.97 ×", peer: "Ways/throughput/kontiki", called: "pod to pod"},
			{bench: "Ways/latency/service", metric: "µs", what: "round trip through a Service across nodes", unit: "µs", target: "≤ 1.03 ×", peer: "Ways/latency/kontiki", called: "pod to pod"},
			{bench: "Ways/connect/service", metric: "µs", what: "connection through a Service across nodes", unit: "µs", peer: "Ways/connect/kontiki", called: "pod to pod"},
			{bench: "AmongServices/connect/10000", metric: "µs", what: "connection to one of 10,000 Services", unit: "µs", target: "≤ 1.05 ×", peer: "AmongServices/connect/10", called: "one of 10"},
			{bench: "AmongServices/change", metric: "ms", what: "one of 10,000 Services changed, from the object to the kernel", unit: "ms", target: "≤ 20 ms"},
			{bench: "TenThousandServices/all", what: "10,000 Services programmed", unit: "ms", target: "≤ 500 ms"},
			{bench: "TenThousandServices/all", metric: "cpu-ms/op", what: "10,000 Services programmed, CPU time", unit: "ms"},
			{bench: "TenThousandServices/one", what: "one of 10,000 Services changed, in the kernel", unit: "ms", target: "≤ 1 ms"},
			{bench: "NodeJoins/reached", metric: "ms", what: "a node's network started, until pods of all others reach its pod", unit: "ms", target: "≤ 1000 ms"},
			{bench: "Attach", metric: "p50-ms", what: "a pod attached to the network", unit: "ms", target: "≤ 5 ms"},
			{bench: "DNS", metric: "answers/s", what: "DNS answers to a pod, by one core's time, among 10,000 Services", unit: "/s", target: "≥ 20000 /s"},
			{bench: "DNS", metric: "p99-ms", what: "DNS answer to a pod, p99 with 4 asking at once", unit: "ms", target: "≤ 1 ms"},
		},
	},
	{
		name: "scheduler", about: "planning on 1,000 and 5,000 simulated nodes (without writing bindings)",
		packages: []string{"controllers/scheduler"},
		rows: []named{
			{bench: "Plan/replicaset/1000", metric: "pods/s", what: "pods planned, 1,000 nodes, spread by default", unit: "/s", target: "≥ 5000 /s"},
			{bench: "Plan/spread/1000", metric: "pods/s", what: "pods planned, 1,000 nodes, topology spread", unit: "/s", target: "≥ 5000 /s"},
			{bench: "Plan/antiaffinity/1000", metric: "pods/s", what: "pods planned, 1,000 nodes, apart from each other", unit: "/s", target: "≥ 5000 /s"},
			{bench: "Plan/replicaset/5000", metric: "pods/s", what: "pods planned, 5,000 nodes, spread by default", unit: "/s", target: "≥ 2000 /s"},
			{bench: "Plan/spread/5000", metric: "pods/s", what: "pods planned, 5,000 nodes, topology spread", unit: "/s", target: "≥ 2000 /s"},
			{bench: "Preempt", metric: "pods/s", what: "pods for which room is made, 1,000 full nodes", unit: "/s"},
		},
	},
	{
		name: "control", about: "controllers and scheduler over the API of three nodes, on simulated nodes (needs root)",
		program: "bench/control", needs: []string{"kontiki"},
	},
	{
		name: "pods", about: "pods of one whole node, beside containerd with ctr, and podman (installed if missing; needs root)",
		program: "bench/pods", needs: []string{"kontiki", "examples/web.tar"},
	},
	{
		name: "runtime", about: "a node's runtime and agent alone, over an API without latency (needs root)",
		packages: []string{"runtime/shim", "runtime/agent"},
		rows: []named{
			{bench: "BoundToRunning", metric: "p50-ms", what: "pod bound to Running, median", unit: "ms", target: "≤ 60 ms"},
			{bench: "BoundToRunning", metric: "p99-ms", what: "pod bound to Running, p99", unit: "ms", target: "≤ 250 ms"},
		},
	},
}
