package main

import (
	"github.com/spf13/pflag"

	"kontiki/apiserver"
)

// auditFlags are kube-apiserver's for a log of requests, in a file or on standard output.
func auditFlags(flags *pflag.FlagSet, a *apiserver.Audit) {
	*a = apiserver.DefaultAudit()
	flags.StringVar(&a.PolicyFile, "audit-policy-file", "", "file that says which requests to this node's API are noted (a Policy of audit.k8s.io/v1)")
	flags.StringVar(&a.Path, "audit-log-path", "", "file in which they are noted; - is the standard output")
	flags.StringVar(&a.Format, "audit-log-format", a.Format, "json, or legacy for a line of text each")
	flags.StringVar(&a.Mode, "audit-log-mode", a.Mode, "blocking: requests wait until they are noted; blocking-strict: those that cannot be noted fail; batch: they do not wait")
	flags.IntVar(&a.MaxAge, "audit-log-maxage", 0, "days after which old log files are deleted; 0 keeps them")
	flags.IntVar(&a.MaxBackups, "audit-log-maxbackup", 0, "how many old log files are kept at most; 0 keeps all")
	flags.IntVar(&a.MaxSize, "audit-log-maxsize", 0, "megabytes at which another log file is begun; 0 keeps to one")
	flags.BoolVar(&a.Compress, "audit-log-compress", false, "compress old log files")
	flags.BoolVar(&a.Truncate, "audit-log-truncate-enabled", false, "leave out of large events what makes them large")
	flags.Int64Var(&a.MaxBatchBytes, "audit-log-truncate-max-batch-size", a.MaxBatchBytes, "bytes of events that are written at once at most")
	flags.Int64Var(&a.MaxEventBytes, "audit-log-truncate-max-event-size", a.MaxEventBytes, "bytes at which an event counts as large")
}
