package dns

import "sync/atomic"

// Stats are counts since the start.
type Stats struct {
	Questions uint64 `json:"questions"`
	Cluster   uint64 `json:"cluster"`   // answered from the cluster's objects
	Completed uint64 `json:"completed"` // walks along a search path that one answer ended
	Cached    uint64 `json:"cached"`    // answered with what an upstream said before
	Forwarded uint64 `json:"forwarded"` // asked of upstreams
	Failed    uint64 `json:"failed"`    // of those, without an answer
}

type counters struct {
	questions, cluster, completed, cached, forwarded, failed atomic.Uint64
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	return Stats{
		Questions: s.count.questions.Load(), Cluster: s.count.cluster.Load(), Completed: s.count.completed.Load(),
		Cached: s.count.cached.Load(), Forwarded: s.count.forwarded.Load(), Failed: s.count.failed.Load(),
	}
}
