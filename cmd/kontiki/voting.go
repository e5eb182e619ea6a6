package main

import (
	"time"

	"github.com/spf13/pflag"

	"kontiki/node"
)

// votingFlags are the options of who votes.
func votingFlags(flags *pflag.FlagSet, v *node.Voting) {
	flags.DurationVar(&v.Stable, "stable-voter-after", 10*time.Second, "how long a member must be healthy before the leader gives it a vote; the same on all nodes")
	flags.DurationVar(&v.Dead, "dead-voter-after", time.Minute, "how long a voter must fail before the leader takes its vote: longer than a restart takes; the same on all nodes")
	flags.DurationVar(&v.Forget, "dead-member-after", 24*time.Hour, "how long a member must be gone before it is taken out of the Raft group, until it is back; negative: it is not; the same on all nodes")
}
